"""The KV cache against plain models: who may read what, what is evicted, what is reported."""

from array import array

import pytest

from mserve.runtime.blocks import block_keys
from mserve.runtime.engine import prefix_match
from mserve.runtime.engine.batching import unknown
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.moves import Moves, PageCopy
from mserve.runtime.engine.prefix_match import Match
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
    return cache.match(array("i", tokens).tobytes(), salt).num_tokens


def test_a_match_is_exact_to_the_token_and_never_covers_the_last_one() -> None:
    cache = KvCache(8, PAGE)
    cached(cache, list(range(8)))
    for length in range(1, 8):
        assert match_length(cache, list(range(length))) == length - 1
    assert match_length(cache, list(range(8))) == 7
    assert match_length(cache, list(range(12))) == 8
    assert match_length(cache, [0, 1, 2, 3, 4, 5, 99, 99]) == 6
    assert match_length(cache, [0, 1, 99]) == 2
    assert match_length(cache, [99, 1, 2]) == 0


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


def test_a_token_that_is_still_to_come_is_in_no_block() -> None:
    cache = KvCache(8, PAGE)
    sequence = sequence_of(list(range(7)))
    assert cache.reserve(sequence, 8)
    sequence.tokens.append(unknown(0))
    cache.publish(sequence, 7)
    sequence.tokens[7] = 7
    cache.publish(sequence, 8)
    cache.check_integrity([sequence])
    assert cache.snapshot() == block_keys(array("i", range(8)).tobytes(), PAGE)


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


def test_the_beginning_of_a_block_is_copied_to_a_page_of_ones_own() -> None:
    cache = KvCache(8, PAGE)
    pages = cached(cache, list(range(8)))
    sequence = sequence_of([0, 1, 2, 3, 4, 5, 99, 99, 99])
    assert cache.reserve(sequence, 9)
    assert (sequence.num_matched, sequence.num_shared) == (6, 1)
    assert cache.take_moves() == Moves(copies=(PageCopy(pages[1], sequence.pages[1], 2),))
    assert sequence.pages[1] != pages[1]
    cache.check_integrity([sequence])


def test_a_block_is_not_evicted_while_it_is_copied() -> None:
    cache = KvCache(4, PAGE)
    source = cached(cache, list(range(4)))[0]
    copier, greedy = sequence_of([0, 1, 99]), sequence_of([7] * 12)
    assert cache.reserve(copier, 3)
    assert cache.take_moves().copies == (PageCopy(source, copier.pages[0], 2),)
    assert not cache.reserve(greedy, 12)
    cache.settle_moves()
    assert cache.reserve(greedy, 12)
    assert source in greedy.pages
    cache.check_integrity([copier, greedy])


def test_a_partial_hit_is_given_up_where_it_would_take_the_last_page() -> None:
    cache = KvCache(2, PAGE)
    cached(cache, list(range(8)))
    sequence = sequence_of([0, 1, 99, 99, 99])
    assert cache.reserve(sequence, 5)
    assert sequence.num_matched == 0
    assert not cache.take_moves()
    cache.check_integrity([sequence])


def test_of_many_continuations_the_one_that_agrees_longest_is_taken() -> None:
    cache = KvCache(16, PAGE)
    start = [1, 2, 3, 4]
    continuations = ([5, 6, 0, 0], [5, 6, 7, 0], [5, 6, 7, 900], [5, 0, 7, 8], [6, 6, 7, 8])
    for continuation in continuations:
        cached(cache, [*start, *continuation])
    assert match_length(cache, [*start, 5, 6, 7, 8, 9]) == 7
    assert match_length(cache, [*start, 5, 6, 7, 900, 9]) == 8
    assert match_length(cache, [*start, 5, 6, 8, 8, 9]) == 6
    assert match_length(cache, [*start, 5, 300, 7, 8, 9]) == 5
    assert match_length(cache, [*start, 7, 6, 7, 8, 9]) == 4


def test_an_evicted_block_moves_to_host_memory_and_back() -> None:
    cache = KvCache(2, PAGE, host_pages=2)
    first, second = cached(cache, list(range(8)))
    greedy = sequence_of([7] * 8)
    assert cache.reserve(greedy, 8)
    saved = dict(cache.take_moves().saves)
    assert saved.keys() == {first, second}
    cache.settle_moves()
    assert cache.match(array("i", range(9)).tobytes(), b"") == Match(0, 8)
    assert cache.take_changes()[0] == ()  # stored while it is in any tier
    cache.release(greedy)
    sequence = sequence_of([*range(7), 99])
    assert cache.reserve(sequence, 8)
    assert sequence.num_matched == 7
    moves = cache.take_moves()
    assert set(moves.restores) == {
        (saved[first], sequence.pages[0]),
        (saved[second], sequence.pages[1]),
    }
    cache.check_integrity([sequence])
    cache.settle_moves()
    assert cache.num_host_used == 1  # the second was copied, not moved
    cache.check_integrity([sequence])


def test_host_memory_that_is_full_forgets_the_oldest_leaf() -> None:
    cache = KvCache(2, PAGE, host_pages=1)
    keys = block_keys(array("i", range(8)).tobytes(), PAGE)
    cached(cache, list(range(8)))
    cache.take_changes()
    greedy = sequence_of([7] * 8)
    assert cache.reserve(greedy, 8)
    assert len(cache.take_moves().saves) == 1  # the leaf's save was in vain
    assert cache.take_changes() == ((keys[1],), ())
    assert cache.match(array("i", range(9)).tobytes(), b"") == Match(0, 4)
    cache.check_integrity([greedy])


def test_a_block_that_was_computed_again_leaves_host_memory() -> None:
    cache = KvCache(4, PAGE, host_pages=2)
    cached(cache, list(range(4)))
    twin, greedy = sequence_of([*range(4), 8]), sequence_of([7] * 8)
    assert cache.reserve(greedy, 8)
    twin.tokens[0] = 5  # no hit now
    assert cache.reserve(twin, 5)
    cache.take_moves()
    cache.settle_moves()
    assert cache.num_host_used == 1
    twin.tokens[0], twin.blocks = 0, []
    cache.publish(twin, 4)
    assert cache.num_host_used == 0
    assert cache.match(array("i", range(5)).tobytes(), b"") == Match(4, 0)
    cache.check_integrity([twin, greedy])


def test_a_block_in_host_memory_stays_there_while_the_batch_in_flight_reads_it() -> None:
    cache = KvCache(4, PAGE, host_pages=2)
    twin = sequence_of([*range(4), 8])
    assert cache.reserve(twin, 5)
    cached(cache, list(range(4)))
    greedy = sequence_of([7] * 8)
    assert cache.reserve(greedy, 8)  # and the block moves to host memory
    cache.take_moves()
    cache.settle_moves()
    cache.release(greedy)
    copier = sequence_of([0, 1, 99])
    assert cache.reserve(copier, 3)
    assert len(cache.take_moves().restores) == 1
    cache.publish(twin, 4)
    assert (twin.num_shared, cache.num_host_used) == (0, 1)
    cache.settle_moves()
    cache.publish(twin, 4)
    assert (twin.num_shared, cache.num_host_used) == (1, 0)
    cache.check_integrity([twin, copier])


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

    def by_index(tokens: bytes, size: int, salt: bytes, parent: int | None) -> list[int]:
        first = 0 if parent is None else parent + 1
        return list(range(first, first + len(tokens) // (4 * size)))

    monkeypatch.setattr(prefix_match, "block_keys", by_index)


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
    def keys_of_unchained_blocks(
        tokens: bytes, size: int, salt: bytes, parent: int | None
    ) -> list[int]:
        blocks = (tokens[at : at + 4 * size] for at in range(0, len(tokens), 4 * size))
        return [int.from_bytes(block, "little") for block in blocks if len(block) == 4 * size]

    monkeypatch.setattr(prefix_match, "block_keys", keys_of_unchained_blocks)
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
