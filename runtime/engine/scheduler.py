"""Who gets pages and who is in the next batch: continuous batching with chunked prefill under a
token budget, decodes first (Sarathi-Serve, arXiv 2403.02310, section 4), in the order of queues.py.

Owns the queues. A sequence is admitted with the pages of its whole prompt or not at all, so that
memory held waits only for compute or the network, never for memory. When a decode finds no page,
the last running sequence is preempted: it waits again and computes what the prefix cache, with its
host tier, has lost by then. Knows neither events nor what a step's result means.
"""

from collections.abc import Collection
from math import inf

from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.hit_ratio import HitRatioQueue
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.queues import Queue, RankedQueue, rank_of
from mserve.runtime.engine.sequence import Sequence, SequenceState


class Scheduler:
    """Every sequence is in at most one queue; those waiting for the network are in none.

    waiting    eligible for admission; receivers apart: they need pages, not the budget
    prefilling have prompt positions to compute now
    decoding   have one token to compute
    """

    def __init__(self, config: EngineConfig, cache: KvCache) -> None:
        self._config = config
        self._cache = cache
        self._rank = rank_of(config)
        self._waiting = self._new_queue()
        self._waiting_to_receive = self._new_queue()
        self._prefilling: dict[Sequence, None] = {}
        self._decoding: dict[Sequence, None] = {}
        self._refused: tuple[Sequence, int] | None = None  # found no room at this cache version

    def _new_queue(self) -> Queue:
        if self._config.queue == "hit_ratio":
            return HitRatioQueue(self._config.queue_groups, self._cache.cached_share)
        return RankedQueue(self._rank)

    def place(self, sequence: Sequence) -> None:
        """Puts a sequence into the queue where what it is now belongs. Who waits there already keeps
        the place."""
        waits = sequence.state is SequenceState.WAITING and sequence.is_eligible
        if waits and sequence in self._queue_of(sequence):
            return
        self.remove(sequence)
        if sequence.state is SequenceState.WAITING:
            if sequence.is_eligible:
                self._queue_of(sequence).add(sequence)
        elif sequence.is_decoding:
            self._decoding[sequence] = None
        elif sequence.num_computed < sequence.compute_stop:
            self._prefilling[sequence] = None

    def expect(self, batch: Batch) -> None:
        """Of a batch that is foreseen: places its sequences where they will belong. One that will
        have ended, whatever the token, belongs nowhere."""
        eos_token_ids, max_model_len = self._config.eos_token_ids, self._config.max_model_len
        for chunk in batch.prefill:
            if chunk.sequence.state is SequenceState.RUNNING:
                self.place(chunk.sequence)
        for sequence in batch.sampled:
            if sequence.awaits_tokens and sequence.finish_reason(eos_token_ids, max_model_len):
                self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._decoding.pop(sequence, None)
        self._prefilling.pop(sequence, None)
        self._waiting.remove(sequence)
        self._waiting_to_receive.remove(sequence)

    def is_parked(self, sequence: Sequence) -> bool:
        """It is ready to decode and has no pages for the moment."""
        return False

    def choose(self, now: float, *, is_ahead: bool) -> None:
        """Who decodes in the next step: here everyone who is ready. With `is_ahead` it is planned while
        one runs."""

    def has_room(self) -> bool:
        """Whether `make_room` would preempt nobody and return none."""
        short, pages_for = self._short_of_pages(self._decoding), self._cache.pages_for
        lacking = sum(pages_for(self._next_end(s)) - len(s.pages) for s in short)
        fits = all(self._next_end(s) <= self._config.capacity for s in short)
        return fits and lacking <= self._cache.num_available

    def make_room(self) -> list[Sequence]:
        """Sees that running sequences have the pages of their next positions, preempting where
        there are none. Returns those that all pages together could not hold."""
        short = self._short_of_pages(self._members())
        unfit = [s for s in short if self._next_end(s) > self._config.capacity]
        for sequence in short:
            if sequence not in unfit and sequence.state is SequenceState.RUNNING:
                self._find_pages(sequence, self._next_end(sequence))
        return unfit

    def admit(self) -> list[Sequence]:
        """Reserves pages for waiting sequences, in their order, while budget and memory last.

        The first that finds no room is waited for: nobody behind overtakes it.
        """
        admitted: list[Sequence] = []
        budget = self._config.max_batch_tokens - len(self._members())
        budget -= sum(self._next_end(s) - s.num_computed for s in self._prefilling)
        slots = self._num_slots()
        while (sequence := self._next(budget > 0 and slots > 0)) is not None:
            if self._refused == (sequence, self._cache.version):
                break
            if not self._find_room(sequence):
                self._refused = (sequence, self._cache.version)
                break
            self._begin(sequence)
            admitted.append(sequence)
            num_tokens = self._next_end(sequence) - sequence.num_computed
            budget -= num_tokens
            slots -= num_tokens > 0
        return admitted

    def form(self) -> Batch | None:
        """The next batch: decodes, then chunks of the first prefills in what budget is left."""
        page_size, limit = self._cache.page_size, self._config.max_running
        members = self._members()
        decode = [s for s in members if s.num_computed < len(s.pages) * page_size]
        del decode[min(limit, self._config.max_batch_tokens) :]
        prefill = self._chunks(self._config.max_batch_tokens - len(decode), limit - len(decode))
        moves = self._cache.take_moves()
        if not prefill and not decode and not moves:
            return None
        may_repeat = not prefill and decode and len(decode) == len(members)
        repeat = self._repeat(decode) if may_repeat else 1
        return Batch(tuple(prefill), tuple(decode), repeat, self._until(), moves)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._waiting_to_receive)

    @property
    def starved(self) -> list[Sequence]:
        """Those who wait for pages while there are too few for the first of them."""
        if self._refused is None or self._refused[1] != self._cache.version:
            return []
        return [*self._waiting, *self._waiting_to_receive]

    # --- what aligned_scheduler.py decides otherwise -----------------------------------------------

    def _members(self) -> Collection[Sequence]:
        """Who decodes, of those with pages."""
        return self._decoding

    def _until(self) -> float:
        """When `choose` may say otherwise though nobody has come or gone."""
        return inf

    def _num_slots(self) -> int:
        """How many more may be given pages to compute."""
        return self._config.max_running - len(self._decoding) - len(self._prefilling)

    def _find_room(self, sequence: Sequence) -> bool:
        """Reserves pages for one that waits."""
        return self._cache.reserve(sequence, self._reserved_end(sequence))

    def _giving_way(self, sequence: Sequence) -> tuple[bool, tuple[float, int]]:
        """Larger is preempted sooner."""
        return False, self._rank(sequence)

    # --- inside --------------------------------------------------------------------------------

    def _begin(self, sequence: Sequence) -> None:
        """It has been given pages."""
        self.remove(sequence)
        sequence.state = SequenceState.RUNNING
        sequence.num_computed = sequence.num_matched

    def _queue_of(self, sequence: Sequence) -> Queue:
        return self._waiting_to_receive if sequence.receives else self._waiting

    def _next(self, can_compute: bool) -> Sequence | None:
        """Who is to be admitted next; without budget, of the receivers alone."""
        firsts = [self._waiting_to_receive.first(), self._waiting.first() if can_compute else None]
        return min((s for s in firsts if s is not None), key=self._rank, default=None)

    def _next_end(self, sequence: Sequence) -> int:
        """Where the sequence's positions of the next step end, if it gets its whole chunk."""
        if sequence.is_decoding:
            return sequence.num_computed + 1
        return min(sequence.num_computed + self._config.chunk_tokens, sequence.compute_stop)

    def _reserved_end(self, sequence: Sequence) -> int:
        if not sequence.may_generate:
            return sequence.compute_end
        end = len(sequence.tokens) + self._config.decode_headroom
        if sequence.sampling is not None:
            end = min(end, sequence.num_prompt + sequence.sampling.max_tokens)
        return min(end, self._config.max_model_len, self._config.capacity)

    def _short_of_pages(self, decoding: Collection[Sequence]) -> list[Sequence]:
        page_size = self._cache.page_size
        short = [s for s in decoding if s.num_computed >= len(s.pages) * page_size]
        short += [s for s in self._prefilling if self._next_end(s) > len(s.pages) * page_size]
        return short

    def _find_pages(self, sequence: Sequence, end: int) -> None:
        """Grows the table, preempting the last until it fits. Without a page in the end the
        sequence is in no batch: preempted itself, or held by a transfer and waiting for it."""
        while not self._cache.grow(sequence, end):
            running = (*self._decoding, *self._prefilling)
            victim = max(
                (s for s in running if s.is_preemptible), key=self._giving_way, default=None
            )
            if victim is None:
                return
            self._preempt(victim)
            if victim is sequence:
                return

    def _preempt(self, victim: Sequence) -> None:
        self._cache.publish(victim, victim.num_computed)
        self._cache.release(victim)
        victim.restart()
        self.place(victim)

    def _chunks(self, budget: int, slots: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        for sequence in sorted(self._prefilling, key=self._rank)[: max(0, slots)]:
            held = len(sequence.pages) * self._cache.page_size
            end = min(self._next_end(sequence), sequence.num_computed + budget, held)
            if end > sequence.num_computed:
                sample = sequence.is_generating and end == len(sequence.tokens)
                chunks.append(Chunk(sequence, sequence.num_computed, end, sample))
                budget -= end - sequence.num_computed
        return chunks

    def _repeat(self, decode: list[Sequence]) -> int:
        """Steps until one of `decode` reaches its length or memory runs out. Until then nothing
        changes for those who wait either: decodes only take pages."""
        most = min(self._config.max_repeat, *(self._steps_left(s) for s in decode))
        if most == 1 or self._pages_lacking(decode, most) <= self._cache.num_available:
            return most
        low, most = 1, most - 1
        while low < most:
            middle = (low + most + 1) // 2
            if self._pages_lacking(decode, middle) <= self._cache.num_available:
                low = middle
            else:
                most = middle - 1
        return low

    def _steps_left(self, sequence: Sequence) -> int:
        assert sequence.sampling is not None, f"{sequence.key} decodes without sampling"
        length_left = self._config.max_model_len - len(sequence.tokens)
        return min(sequence.sampling.max_tokens - sequence.num_output, length_left)

    def _pages_lacking(self, decode: list[Sequence], steps: int) -> int:
        pages_for = self._cache.pages_for
        return sum(max(0, pages_for(s.num_computed + steps) - len(s.pages)) for s in decode)
