"""Decoding in batches of similar length: more sequences are ready than are in a batch, and some of them
have left the device.

Owns those that are parked: ready to decode, without pages. What they have computed is cached, in host
memory where the device needs the room, so that little is computed again when they come back. Who is
in the batch aligned.py says. Knows neither queues nor budgets.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf

from mserve.runtime.engine.aligned import AlignedPolicy
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.decode_cost import MIN_GAIN, STAY, Room, predicted_gain
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.sequence import Sequence

POOL_BATCHES = 4  # that the ready and those prefilled for them make up, at most
PARKED_SHARE = 0.5  # of host memory, for newcomers' sake; the rest is for those that change places
SPARE_SHARE = 1 / 8  # of the device's pages, that newcomers leave to those who decode
WEIGHED_CHANGE = 1 / 16  # of those under way come or gone: gains are predicted again


class Standby:
    """Between `choose` and the next one, everyone ready is a member of the batch or is not."""

    def __init__(self, config: EngineConfig, cache: KvCache) -> None:
        self._alignment = config.alignment
        self._config = config
        self._cache = cache
        self._policy: AlignedPolicy[Sequence] = AlignedPolicy(config.alignment)
        self._parked: dict[Sequence, int] = {}  # with the pages that they had
        self._is_crowded = False  # not all who are ready fit in a batch
        self._num_under_way = 0
        self._num_changes = 0
        self.aligns = False  # it is predicted to pay

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._parked

    def __len__(self) -> int:
        return len(self._parked)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._parked)

    @property
    def until(self) -> float:
        """When `choose` may say otherwise though nobody has come or gone."""
        return self._policy.until if self._is_crowded else inf

    def weigh(self, under_way: Iterable[Sequence], num_under_way: int) -> None:
        """Predicts what batches of similar length would gain if all of these decoded; again, once
        enough have come or gone."""
        if num_under_way == self._num_under_way:
            return
        self._num_changes += abs(num_under_way - self._num_under_way)
        self._num_under_way = num_under_way
        if self._num_changes < max(1, WEIGHED_CHANGE * num_under_way):
            return
        self._num_changes = 0
        held = list(self._held(islice(under_way, POOL_BATCHES * self._batch_size)))
        lengths = [self._need(sequence) for sequence in held]
        num_tokens = _tokens_left(held)
        room, cost = self._room(self._config.num_pages), self._config.decode_cost
        gain = predicted_gain(lengths, room, cost, self._alignment.patience_s, num_tokens)
        self.aligns = gain >= MIN_GAIN

    def choose(self, resident: Iterable[Sequence], now: float) -> None:
        """Who of those with pages and of those parked is in the next batch."""
        lengths = {sequence: self._need(sequence) for sequence in resident}
        is_crowded = bool(self._parked) or len(lengths) > self._batch_size
        self._is_crowded = self.aligns and is_crowded
        if not self._is_crowded:
            self._policy.forget()
            return
        num_pages = self._cache.num_available + sum(len(s.pages) for s in lengths)
        lengths |= {sequence: self._need(sequence) for sequence in self._parked}
        room = self._room(min(num_pages, self._config.num_pages))
        self._policy.choose(lengths, room, now, self._parked)

    @property
    def num_ahead(self) -> int:
        """How many may be ready, or prefilled, beyond those of a batch."""
        return (POOL_BATCHES - 1) * self._batch_size if self.aligns else 0

    def is_member(self, sequence: Sequence) -> bool:
        return not self._is_crowded or sequence in self._policy

    def absent(self) -> list[Sequence]:
        """Members that must come back first."""
        if not self._parked:
            return []
        return [sequence for sequence in self._parked if sequence in self._policy]

    def is_tight(self) -> bool:
        """A newcomer would take pages that those who decode will need."""
        return self._cache.num_available < SPARE_SHARE * self._cache.num_pages

    def has_room_for(self, sequence: Sequence) -> bool:
        """Host memory has room for what is given up of it for newcomers' sake."""
        num_pages = sum(self._parked.values()) + len(sequence.pages)
        keeps = self._config.prefix_cache
        return keeps and num_pages <= PARKED_SHARE * self._config.host_pages

    def has_moved(self, num_pages: int) -> None:
        """So many pages of members come from the host, for which as many had to go there."""
        num_positions = 2 * num_pages * self._cache.page_size
        self._policy.stay(STAY * num_positions * self._config.decode_cost.move_s)

    def victims(self, decoding: Iterable[Sequence]) -> Iterator[Sequence]:
        """Who can be parked, those first who came to wait last."""
        if self._is_crowded:
            outside = [s for s in decoding if s not in self._policy and s.is_preemptible]
            yield from reversed(outside)

    def park(self, sequence: Sequence) -> None:
        """Takes its pages. Nothing may be about to write them."""
        self._parked[sequence] = len(sequence.pages)
        self._cache.publish(sequence, sequence.num_computed)
        self._cache.release(sequence)
        sequence.restart()

    def remove(self, sequence: Sequence) -> None:
        """It has pages again, or has ended."""
        self._parked.pop(sequence, None)

    def _held(self, under_way: Iterable[Sequence]) -> Iterator[Sequence]:
        """Those whose KV device and host have room for, newcomers last."""
        num_pages = self._config.num_pages * (1 - SPARE_SHARE)
        if self._config.prefix_cache:
            num_pages += PARKED_SHARE * self._config.host_pages
        left = num_pages * self._cache.page_size
        for sequence in under_way:
            left -= self._need(sequence)
            if left < 0:
                return
            yield sequence

    def _need(self, sequence: Sequence) -> int:
        """Positions that it takes, with a page for what comes."""
        return (self._cache.pages_for(len(sequence.tokens)) + 1) * self._cache.page_size

    def _room(self, num_pages: int) -> Room:
        return Room(self._batch_size, max(1, num_pages * self._cache.page_size))

    @property
    def _batch_size(self) -> int:
        return min(self._config.max_running, self._config.max_batch_tokens)


def _tokens_left(sequences: Iterable[Sequence]) -> float:
    """The mean that they may generate at most, of those that say so."""
    left = [s.sampling.max_tokens - s.num_output for s in sequences if s.sampling is not None]
    return sum(left) / len(left) if left else 1.0
