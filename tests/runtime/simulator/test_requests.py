"""Prompts of simulated requests share tokens exactly where arrivals share blocks."""

from mserve.runtime.simulator.requests import prompt_tokens, request_of
from mserve.runtime.traffic.arrivals import Arrival


def arrival(blocks: tuple[int, ...], num_prompt: int) -> Arrival:
    return Arrival(0.0, num_prompt, 7, blocks, 5, session="s")


def test_equal_blocks_have_equal_tokens_and_others_differ_at_once() -> None:
    one = prompt_tokens(arrival((1, 2, 3), 13))
    two = prompt_tokens(arrival((1, 2, 4), 13))
    assert len(one) == len(two) == 4 * 13
    assert one[:40] == two[:40]
    assert one[40:44] != two[40:44]


def test_ids_that_differ_in_their_upper_bits_have_other_tokens() -> None:
    low, high = prompt_tokens(arrival((5,), 5)), prompt_tokens(arrival((5 + (1 << 40),), 5))
    assert low != high


def test_the_answer_is_as_long_as_the_trace_says() -> None:
    request = request_of(arrival((1, 2), 8), 3)
    assert (request.sampling.min_tokens, request.sampling.max_tokens) == (7, 7)
    assert request.facts == {"session": "s"}
    assert request.num_tokens == 8
