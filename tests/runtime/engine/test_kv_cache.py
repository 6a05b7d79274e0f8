"""The KV cache against plain models: who may read what, what is evicted, what is reported."""

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mserve.runtime.blocks import block_keys
from mserve.runtime.engine import kv_cache
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.sequence import Send, Sequence

PAGE = 4


def sequence_of(tokens: list[int], salt: bytes = b"") -> Sequence:
    return Sequence("test", array("i", tokens), len(tokens), salt)


def held(cache: KvCache, tokens: list[int], salt: bytes = b"") -> Sequence:
    """A running sequence whose prompt is computed and published."""
    sequence = sequence_of(tokens, salt)
    assert cache.reserve(sequence, len(tokens))
    cache.publish(sequence, len(tokens))
    return sequence


def cached(cache: KvCache, tokens: list[int], salt: bytes = b"") -> list[int]:
    """Leaves the prompt's blocks in the cache; returns their pages."""
    sequence = held(cache, tokens, salt)
    pages = list(sequence.pages)
    cache.release(sequence)
    return pages


def match_length(cache: KvCache, tokens: list[int], salt: bytes = b"") -> int:
    return cache.match_length(array("i", tokens).tobytes(), salt)


def test_a_match_never_covers_the_last_token() -> None:
    cache = KvCache(8, PAGE)
    cached(cache, list(range(8)))
    assert match_length(cache, list(range(8))) == 4
    assert match_length(cache, list(range(9))) == 8
    assert match_length(cache, list(range(3))) == 0


def test_a_reservation_takes_what_is_cached_and_new_pages_for_the_rest() -> None:
    cache = KvCache(8, PAGE)
    pages = cached(cache, list(range(8)))
    sequence = sequence_of(list(range(11)))
    assert cache.reserve(sequence, 14)
    assert list(sequence.pages[:2]) == pages
    assert len(sequence.pages) == 4
    assert (sequence.num_matched, sequence.num_shared) == (8, 2)
    cache.check_integrity([sequence])


def test_a_reservation_is_whole_or_nothing() -> None:
    cache = KvCache(4, PAGE)
    cached(cache, list(range(8)))
    running = sequence_of([7] * 8)
    assert cache.reserve(running, 8)
    sequence = sequence_of(list(range(17)))
    assert not cache.reserve(sequence, 17)  # 2 matched, 3 new: the matched ones cannot be evicted
    assert not sequence.pages
    assert match_length(cache, list(range(9))) == 8
    cache.check_integrity([running])


def test_growth_is_whole_or_nothing() -> None:
    cache = KvCache(4, PAGE)
    sequence = sequence_of([1] * 5)
    assert cache.reserve(sequence, 5)
    assert not cache.grow(sequence, 17)
    assert len(sequence.pages) == 2
    assert cache.grow(sequence, 16)
    assert sorted(sequence.pages) == [0, 1, 2, 3]


def test_nothing_is_seen_before_it_is_published() -> None:
    cache = KvCache(8, PAGE)
    sequence = sequence_of(list(range(8)))
    assert cache.reserve(sequence, 8)
    assert match_length(cache, list(range(8))) == 0
    cache.publish(sequence, 7)  # the second block is not whole
    assert match_length(cache, list(range(12))) == 4
    cache.release(sequence)
    assert match_length(cache, list(range(12))) == 4


def test_equal_blocks_computed_twice_are_shared_from_then_on() -> None:
    cache = KvCache(8, PAGE)
    twins = [sequence_of(list(range(8))) for _ in range(2)]
    assert all(cache.reserve(twin, 9) for twin in twins)
    assert cache.num_available == 2
    for twin in twins:
        cache.publish(twin, 8)
    assert twins[0].pages[:2] == twins[1].pages[:2]
    assert twins[0].pages[2] != twins[1].pages[2]
    assert cache.num_available == 4
    cache.check_integrity(twins)


def test_a_sending_sequence_keeps_its_pages_until_the_send_is_done() -> None:
    cache = KvCache(8, PAGE)
    first, sender = (sequence_of(list(range(8))) for _ in range(2))
    assert cache.reserve(first, 8)
    assert cache.reserve(sender, 8)
    sender.sends.append(Send("send", 0, 8))
    cache.publish(first, 8)
    pages = list(sender.pages)
    cache.publish(sender, 8)
    assert list(sender.pages) == pages
    sender.sends[0].done = True
    cache.publish(sender, 8)
    assert sender.pages == first.pages
    cache.check_integrity([first, sender])


def test_the_least_recently_used_leaf_is_evicted_first() -> None:
    cache = KvCache(5, PAGE)
    old, new = [1] * 8, [2] * 8
    old_keys, new_keys = (block_keys(array("i", t).tobytes(), PAGE) for t in (old, new))
    cached(cache, old)
    cached(cache, new)
    cache.release(held(cache, [*old, 0]))  # uses the old ones again
    cache.take_changes()
    sequence = sequence_of([3] * 16)
    assert cache.reserve(sequence, 16)
    assert cache.take_changes() == ((new_keys[1], new_keys[0], old_keys[1]), ())
    assert match_length(cache, [*old, 0]) == 4


def test_what_a_sequence_holds_is_not_evicted() -> None:
    cache = KvCache(4, PAGE)
    running = held(cache, [1] * 8)
    cached(cache, [2] * 8)
    greedy = sequence_of([3] * 12)
    assert not cache.reserve(greedy, 12)
    assert cache.reserve(greedy, 8)
    assert match_length(cache, [1] * 9) == 8
    assert match_length(cache, [2] * 9) == 0
    cache.check_integrity([running, greedy])


def test_a_salt_separates_tenants() -> None:
    cache = KvCache(8, PAGE)
    cached(cache, [1] * 8, salt=b"one")
    assert match_length(cache, [1] * 9, salt=b"two") == 0
    assert match_length(cache, [1] * 9) == 0
    assert match_length(cache, [1] * 9, salt=b"one") == 8


@pytest.fixture
def weak_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of the same index collide."""
    monkeypatch.setattr(
        kv_cache, "block_keys", lambda tokens, size, salt: list(range(len(tokens) // (4 * size)))
    )


@pytest.mark.usefixtures("weak_keys")
def test_a_collision_never_serves_foreign_kv() -> None:
    cache = KvCache(8, PAGE)
    cached(cache, [1] * 8)
    assert match_length(cache, [2] * 9) == 0
    assert match_length(cache, [*[2] * 4, *[1] * 5]) == 0
    other = held(cache, [2] * 8)
    assert other.num_shared == 0
    assert match_length(cache, [1] * 9) == 8
    cache.check_integrity([other])


def test_an_equal_block_after_another_prefix_is_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys_of_unchained_blocks(tokens: bytes, size: int, salt: bytes) -> list[int]:
        blocks = (tokens[at : at + 4 * size] for at in range(0, len(tokens), 4 * size))
        return [int.from_bytes(block, "little") for block in blocks if len(block) == 4 * size]

    monkeypatch.setattr(kv_cache, "block_keys", keys_of_unchained_blocks)
    cache = KvCache(8, PAGE)
    cached(cache, [*[1] * 4, *[3] * 4])
    cached(cache, [2] * 4)
    assert match_length(cache, [*[2] * 4, *[3] * 5]) == 4


def test_changes_are_net_and_a_snapshot_has_parents_first() -> None:
    cache = KvCache(2, PAGE)
    keys = block_keys(array("i", [1] * 8).tobytes(), PAGE)
    cached(cache, [1] * 8)
    assert cache.snapshot() == keys
    cached(cache, [2] * 8)
    assert cache.take_changes() == ((), tuple(cache.snapshot()))
    cached(cache, [1] * 8)
    cached(cache, [2] * 8)
    assert cache.take_changes() == ((), ())


class CacheMachine(RuleBasedStateMachine):
    """Sequences over a small alphabet come, compute, publish, decode and go.

    The memory model keeps for every slot the whole prefix whose KV was last written there.
    """

    num_pages, page_size = 10, 2

    def __init__(self) -> None:
        super().__init__()
        self.cache = KvCache(self.num_pages, self.page_size)
        self.memory: dict[tuple[int, int], tuple[int, ...]] = {}
        self.live: list[Sequence] = []
        self.index: set[int] = set()

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9), headroom=st.integers(0, 3))
    def reserve(self, tokens: list[int], headroom: int) -> None:
        sequence = sequence_of(tokens)
        before = self.cache.num_available
        if self.cache.reserve(sequence, len(tokens) + headroom):
            sequence.num_computed = sequence.num_matched
            assert sequence.num_matched < len(tokens)
            self.live.append(sequence)
        else:
            assert self.cache.num_available == before

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 5))
    def compute(self, data: st.DataObject, count: int) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        room = len(sequence.pages) * self.page_size
        end = min(sequence.num_computed + count, len(sequence.tokens), room)
        for position in range(sequence.num_computed, end):
            page = sequence.pages[position // self.page_size]
            prefix = tuple(sequence.tokens[: position + 1])
            self.memory[page, position % self.page_size] = prefix
        sequence.num_computed = end

    @precondition(lambda self: self.live)
    @rule(data=st.data(), sending=st.booleans())
    def publish(self, data: st.DataObject, sending: bool) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        sequence.sends = [Send("send", 0, 0, done=not sending)]
        self.cache.publish(sequence, min(sequence.num_computed, len(sequence.tokens) - 1))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1))
    def decode(self, data: st.DataObject, token: int) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        if self.cache.grow(sequence, len(sequence.tokens) + 1):
            sequence.tokens.append(token)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), keep=st.booleans())
    def release(self, data: st.DataObject, keep: bool) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        if keep:
            self.cache.publish(sequence, sequence.num_computed)
        self.cache.release(sequence)
        self.live.remove(sequence)

    @invariant()
    def pages_are_accounted_for(self) -> None:
        self.cache.check_integrity(self.live)

    @invariant()
    def every_sequence_reads_its_own_kv(self) -> None:
        for sequence in self.live:
            for position in range(sequence.num_computed):
                page = sequence.pages[position // self.page_size]
                kv = self.memory[page, position % self.page_size]
                assert kv == tuple(sequence.tokens[: position + 1])

    @invariant()
    def the_index_follows(self) -> None:
        evicted, stored = self.cache.take_changes()
        assert self.index.issuperset(evicted)
        assert self.index.isdisjoint(stored)
        self.index = self.index.difference(evicted).union(stored)
        assert self.index == set(self.cache.snapshot())


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class CollidingCacheMachine(CacheMachine):
    """The same with keys of two bits, so that nearly every other block collides."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(kv_cache, "block_keys", _two_bit_keys)

    def teardown(self) -> None:
        self._patch.undo()


def _two_bit_keys(tokens: bytes, size: int, salt: bytes) -> list[int]:
    return [4 * index + key % 4 for index, key in enumerate(block_keys(tokens, size, salt))]


TestCollidingCacheMachine = CollidingCacheMachine.TestCase
TestCollidingCacheMachine.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None
)
