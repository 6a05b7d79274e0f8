"""The KV cache under any sequence of operations, against a model of memory that knows for every slot
the whole prefix whose KV was last written there.

The order is the engine's: pages are given out and blocks evicted, then the moves are done, then
sequences compute, publish and go.
"""

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mserve.runtime.blocks import block_keys
from mserve.runtime.engine import prefix_match
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.sequence import Send, Sequence

Prefix = tuple[int, ...]
prompts = st.builds(
    lambda family, shared, own: [family] * shared + own,
    st.integers(0, 1),
    st.integers(0, 9),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)


class CacheMachine(RuleBasedStateMachine):
    """Sequences over a small alphabet come, compute, receive, publish, decode and go."""

    page_size = 2
    num_pages = 10
    host_pages = 0
    stretch = 1  # of prompts

    def __init__(self) -> None:
        super().__init__()
        self.cache = KvCache(self.num_pages, self.page_size, self.host_pages)
        self.memory: dict[tuple[int, int], Prefix] = {}
        self.host_memory: dict[int, list[Prefix | None]] = {}
        self.live: list[Sequence] = []
        self.new: list[Sequence] = []  # given pages since the last moves: nobody uses them yet
        self.in_flight = False
        self.index: set[int] = set()
        self.blocks: dict[int, Prefix] = {}  # by key, everything that was ever published

    @property
    def settled(self) -> list[Sequence]:
        return [sequence for sequence in self.live if sequence not in self.new]

    # --- a plan --------------------------------------------------------------------------------

    @precondition(lambda self: not self.in_flight)
    @rule(tokens=prompts, headroom=st.integers(0, 3), whole=st.booleans())
    def reserve(self, tokens: list[int], headroom: int, whole: bool) -> None:
        if not self.try_to_reserve(tokens, headroom, whole) and self.settled:
            self.leave(self.settled[0], keep=True)

    def try_to_reserve(self, tokens: list[int], headroom: int, whole: bool) -> bool:
        tokens = [token for token in tokens for _ in range(self.stretch)]
        sequence = Sequence("test", array("i", tokens), len(tokens))
        before, matched = self.cache.num_available, self.expected_match(tokens)
        end = len(tokens) + headroom if whole else -(-len(tokens) // 2)
        reserved = self.cache.reserve(sequence, end)
        if self.follow_changes():
            assert self.cache.num_host_used == self.host_pages, "evicted while there was room"
        if not reserved:
            assert self.cache.num_available == before
            return False
        assert len(sequence.pages) == self.cache.pages_for(end)
        assert sequence.num_matched <= min(end, len(tokens) - 1, matched)
        assert sequence.num_matched >= min(end, matched) // self.page_size * self.page_size
        sequence.num_computed = sequence.num_matched
        self.live.append(sequence)
        self.new.append(sequence)
        return True

    @precondition(lambda self: self.settled and not self.in_flight)
    @rule(data=st.data(), token=st.integers(0, 1))
    def decode(self, data: st.DataObject, token: int) -> None:
        sequence = data.draw(st.sampled_from(self.settled))
        if self.cache.grow(sequence, len(sequence.tokens) + 1):
            sequence.tokens.append(token)
            self.new.append(sequence)

    @precondition(lambda self: self.settled and not self.in_flight)
    @rule(data=st.data(), keep=st.booleans())
    def preempt_or_cancel(self, data: st.DataObject, keep: bool) -> None:
        self.leave(data.draw(st.sampled_from(self.settled)), keep=keep)

    @precondition(lambda self: not self.in_flight)
    @rule(batches=st.lists(st.lists(prompts, min_size=1, max_size=3), min_size=1, max_size=3))
    def serve(self, batches: list[list[list[int]]]) -> None:
        """Whole lives, so that what is cached accumulates and gives way to what comes next."""
        for batch in batches:
            for tokens in batch:
                self.try_to_reserve(tokens, 1, whole=True)
            self.launch()
            for sequence in self.live:
                self.compute(sequence, len(sequence.tokens))
            self.every_sequence_reads_its_own_kv()
            self.land()
            for sequence in list(self.live):
                self.leave(sequence, keep=True)

    def leave(self, sequence: Sequence, *, keep: bool) -> None:
        if keep:
            self.publish(sequence, sequence.num_computed)
        self.cache.release(sequence)
        self.live.remove(sequence)

    @precondition(lambda self: not self.in_flight)
    @rule()
    def launch(self) -> None:
        """The moves, in their order; within each kind all is read before anything is written."""
        moves, size = self.cache.take_moves(), self.page_size
        saved = {host: self.read(page) for page, host in moves.saves}
        assert len(saved) == len(moves.saves)
        self.host_memory |= saved
        restored = {page: self.host_memory[host] for host, page in moves.restores}
        for page, content in restored.items():
            self.write(page, content)
        for copy in moves.copies:
            assert 0 < copy.num_positions <= size
            self.write(copy.target, self.read(copy.source)[: copy.num_positions])
        self.new = []
        self.in_flight = True

    @precondition(lambda self: self.in_flight)
    @rule()
    def land(self) -> None:
        self.cache.settle_moves()
        self.in_flight = False

    # --- what sequences do ---------------------------------------------------------------------

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), count=st.integers(1, 16))
    def compute_or_receive(self, data: st.DataObject, count: int) -> None:
        sequence = data.draw(st.sampled_from(self.settled))
        self.compute(sequence, sequence.num_computed + count)

    def compute(self, sequence: Sequence, end: int) -> None:
        room = len(sequence.pages) * self.page_size
        end = min(end, len(sequence.tokens), room)
        for position in range(sequence.num_computed, end):
            page = sequence.pages[position // self.page_size]
            prefix = tuple(sequence.tokens[: position + 1])
            self.memory[page, position % self.page_size] = prefix
        sequence.num_computed = max(end, sequence.num_computed)

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), sending=st.booleans())
    def settle(self, data: st.DataObject, sending: bool) -> None:
        sequence = data.draw(st.sampled_from(self.settled))
        sequence.sends = [Send("send", 0, 0, done=not sending)]
        pages = list(sequence.pages)
        self.publish(sequence, min(sequence.num_computed, len(sequence.tokens) - 1))
        assert not sending or list(sequence.pages) == pages, "pages under a transfer were exchanged"

    def publish(self, sequence: Sequence, end: int) -> None:
        self.cache.publish(sequence, end)
        for index in range(sequence.num_shared):
            prefix = tuple(sequence.tokens[: (index + 1) * self.page_size])
            self.blocks[sequence.blocks[index][0]] = prefix

    # --- the model -----------------------------------------------------------------------------

    def read(self, page: int) -> list[Prefix | None]:
        return [self.memory.get((page, offset)) for offset in range(self.page_size)]

    def write(self, page: int, content: list[Prefix | None]) -> None:
        for offset, prefix in enumerate(content):
            self.memory.pop((page, offset), None)
            if prefix is not None:
                self.memory[page, offset] = prefix

    def expected_match(self, tokens: list[int]) -> int:
        """The longest beginning of the tokens but the last that any cached block ends or holds."""
        self.follow_changes()
        stored = [self.blocks[key] for key in self.index]
        return max((_num_common(tokens[:-1], prefix) for prefix in stored), default=0)

    # --- what holds ----------------------------------------------------------------------------

    @invariant()
    def pages_are_accounted_for(self) -> None:
        self.cache.check_integrity(self.live)

    @invariant()
    def every_sequence_reads_its_own_kv(self) -> None:
        for sequence in self.settled:
            for position in range(sequence.num_computed):
                page = sequence.pages[position // self.page_size]
                kv = self.memory[page, position % self.page_size]
                assert kv == tuple(sequence.tokens[: position + 1])

    @invariant()
    def the_index_is_right(self) -> None:
        self.follow_changes()

    def follow_changes(self) -> bool:
        """Whether anything was evicted since the last call."""
        evicted, stored = self.cache.take_changes()
        assert self.index.issuperset(evicted)
        assert self.index.isdisjoint(stored)
        self.index = self.index.difference(evicted).union(stored)
        assert self.index == set(self.cache.snapshot())
        return bool(evicted)

    @rule(tokens=prompts)
    def match(self, tokens: list[int]) -> None:
        tokens = [token for token in tokens for _ in range(self.stretch)]
        match = self.cache.match(array("i", tokens).tobytes(), b"")
        assert match.num_tokens == self.expected_match(tokens)
        if not self.host_pages:
            assert match.host_tokens == 0


class CollidingCacheMachine(CacheMachine):
    """The same with keys of two bits, so that nearly every other block collides and is not kept."""

    host_pages = 3

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(prefix_match, "block_keys", _two_bit_keys)

    def teardown(self) -> None:
        self._patch.undo()


class HostTierMachine(CacheMachine):
    num_pages, host_pages = 9, 5


class SinglePositionMachine(CacheMachine):
    page_size, num_pages, host_pages = 1, 14, 6


class LargePagesMachine(CacheMachine):
    page_size, num_pages, host_pages = 4, 5, 2


class LargestPagesMachine(CacheMachine):
    """Most hits are partial ones."""

    page_size, num_pages, host_pages, stretch = 16, 5, 2, 3


def _two_bit_keys(tokens: bytes, size: int, salt: bytes, parent: int | None) -> list[int]:
    keys: list[int] = []
    for begin in range(0, len(tokens) - 4 * size + 1, 4 * size):
        key = block_keys(tokens[begin : begin + 4 * size], size, salt, parent)[0]
        index = 0 if parent is None else parent // 4 + 1
        parent = 4 * index + key % 4
        keys.append(parent)
    return keys


def _num_common(tokens: list[int], prefix: Prefix) -> int:
    pairs = enumerate(zip(tokens, prefix, strict=False))
    shorter = min(len(tokens), len(prefix))
    return next((index for index, (a, b) in pairs if a != b), shorter)


SETTINGS = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = SETTINGS
TestCollidingCacheMachine = CollidingCacheMachine.TestCase
TestCollidingCacheMachine.settings = SETTINGS
TestHostTierMachine = HostTierMachine.TestCase
TestHostTierMachine.settings = SETTINGS
TestSinglePositionMachine = SinglePositionMachine.TestCase
TestSinglePositionMachine.settings = SETTINGS
TestLargePagesMachine = LargePagesMachine.TestCase
TestLargePagesMachine.settings = SETTINGS
TestLargestPagesMachine = LargestPagesMachine.TestCase
TestLargestPagesMachine.settings = SETTINGS
