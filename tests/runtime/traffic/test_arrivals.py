"""Blocks are shared exactly as far as prompts are, and scaling keeps what it should."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.runtime.traffic.arrivals import (
    Arrival,
    TrafficError,
    block_ids,
    chained,
    num_blocks,
    scaled,
    unlike_any,
)


def arrivals(*times_s: float) -> list[Arrival]:
    return [Arrival(at_s, 10, 1, unlike_any(i, 10, 64), 64) for i, at_s in enumerate(times_s)]


def parts_of(lengths: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    for content, num_tokens in lengths:
        parent = parts[-1][0] if parts else 0
        parts.append((chained(parent, content, num_tokens), num_tokens))
    return parts


def num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 20))
def test_a_prompt_has_a_block_of_its_own_for_every_begun_piece(
    lengths: list[int], block_tokens: int
) -> None:
    ids = block_ids(parts_of([("a", n) for n in lengths]), block_tokens)
    assert len(ids) == num_blocks(sum(lengths), block_tokens)
    assert len(set(ids)) == len(ids)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, LENGTHS, LENGTHS, st.integers(1, 20))
def test_prompts_share_the_whole_blocks_of_a_common_beginning(
    common: list[int], first: list[int], second: list[int], block_tokens: int
) -> None:
    beginning = [("common", n) for n in common]
    ours = block_ids(parts_of(beginning + [("first", n) for n in first]), block_tokens)
    theirs = block_ids(parts_of(beginning + [("second", n) for n in second]), block_tokens)
    assert num_shared(ours, theirs) == sum(common) // block_tokens


def test_a_partial_block_is_like_the_same_partial_block_only() -> None:
    short, long = parts_of([("a", 100)]), parts_of([("a", 100), ("b", 100)])
    assert block_ids(short, 64) == block_ids(short, 64)
    assert num_shared(block_ids(short, 64), block_ids(long, 64)) == 1


def test_equal_contents_after_different_beginnings_are_different() -> None:
    assert chained(chained(0, "a", 5), "c", 5) != chained(chained(0, "b", 5), "c", 5)
    assert chained(0, "a", 5) != chained(0, "a", 6)


def test_blocks_that_do_not_cover_the_prompt_are_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="blocks"):
        Arrival(0.0, 65, 1, (1,), 64)


def test_speed_and_duration() -> None:
    found = list(scaled(arrivals(0, 2, 4, 6), speed=2, duration_s=2.5))
    assert [arrival.at_s for arrival in found] == [0, 1, 2]


def test_a_rate_is_that_of_the_arrivals_up_to_the_limit() -> None:
    found = list(scaled(arrivals(1, 2, 3, 100), rate=4, limit=3))
    assert [arrival.at_s for arrival in found] == [0.25, 0.5, 0.75]


def test_scaling_changes_nothing_but_times() -> None:
    before = arrivals(1, 2)
    after = list(scaled(before, rate=10))
    assert [arrival.blocks for arrival in after] == [arrival.blocks for arrival in before]
    assert list(scaled(before)) == before


def test_a_rate_needs_two_moments() -> None:
    with pytest.raises(TrafficError, match=r"2 requests arrive at one time.*leave the rate out"):
        list(scaled(arrivals(1, 1), rate=2))
