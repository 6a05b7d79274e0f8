"""Prompts are equal exactly as far as their blocks are, at any scale, and fit the model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.runtime.traffic.arrivals import Arrival, block_ids, chained, num_blocks
from mserve.runtime.traffic.prompts import Vocabulary, clip, fitted, prompt_tokens, shrink

VOCABULARY = Vocabulary(100, 2000)


def arrival(parts: list[tuple[str, int]], block_tokens: int, num_output: int = 9) -> Arrival:
    keys: list[tuple[int, int]] = []
    for content, length in parts:
        keys.append((chained(keys[-1][0] if keys else 0, content, length), length))
    num_prompt = sum(length for _, length in parts)
    return Arrival(0.0, num_prompt, num_output, block_ids(keys, block_tokens), block_tokens)


def num_equal(first: list[int], second: list[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


LENGTHS = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, LENGTHS, LENGTHS, st.integers(4, 20), st.sampled_from([0.3, 1, 2.5]))
def test_prompts_share_what_their_blocks_share(
    common: int, first: int, second: int, block_tokens: int, scale: float
) -> None:
    ours, theirs = (
        shrink(arrival([("common", common), own], block_tokens), scale)
        for own in (("ours", first), ("theirs", second))
    )
    shared = common // block_tokens * ours.block_tokens
    tokens = [prompt_tokens(each, VOCABULARY, 0) for each in (ours, theirs)]
    assert [len(each) for each in tokens] == [ours.num_prompt, theirs.num_prompt]
    assert shared <= num_equal(*tokens) <= shared + 3  # equal ids by chance are rare


def test_ids_are_in_the_vocabulary_and_fill_it() -> None:
    tokens = prompt_tokens(arrival([("a", 5000)], 64), Vocabulary(10, 20), 0)
    assert set(tokens) == set(range(10, 20))


def test_the_same_seed_gives_the_same_prompt_on_every_machine() -> None:
    each = Arrival(0.0, 4, 1, (7,), 64)
    assert prompt_tokens(each, Vocabulary(), 1) == [10998, 10255, 12918, 19532]
    assert prompt_tokens(each, Vocabulary(), 2) != prompt_tokens(each, Vocabulary(), 1)


@pytest.mark.parametrize(("high", "low"), [(20_000, 1000), (1250, 625), (2, 1)])
def test_a_small_vocabulary_keeps_some_ids(high: int, low: int) -> None:
    assert Vocabulary.below(high) == Vocabulary(low, high)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, LENGTHS, st.integers(1, 20), st.integers(2, 80))
def test_a_clipped_request_fits(
    num_prompt: int, num_output: int, block_tokens: int, context: int
) -> None:
    whole = arrival([("a", num_prompt)], block_tokens, num_output)
    cut = clip(whole, context)
    assert cut.num_prompt + cut.num_output <= max(context, 2)
    assert len(cut.blocks) == num_blocks(cut.num_prompt, block_tokens)
    tokens = prompt_tokens(whole, VOCABULARY, 0)
    assert prompt_tokens(cut, VOCABULARY, 0) == tokens[: cut.num_prompt]


def test_what_is_clipped_is_counted() -> None:
    arrivals = [arrival([("a", length)], 16, num_output=10) for length in (5, 90, 91)]
    found = fitted(arrivals, 1.0, 100)
    assert found.num_clipped == 1
    assert [each.num_prompt for each in found.arrivals] == [5, 90, 90]
    assert fitted(arrivals, 0.5, 100).num_clipped == 0
    assert fitted(arrivals, 1.0, None).arrivals == arrivals


def test_lengths_are_scaled_and_never_vanish() -> None:
    each = shrink(arrival([("a", 1000)], 100, num_output=50), 0.1)
    assert (each.num_prompt, each.num_output, each.block_tokens) == (100, 5, 10)
    tiny = shrink(arrival([("a", 3)], 100, num_output=1), 0.01)
    assert (tiny.num_prompt, tiny.num_output) == (1, 1)
