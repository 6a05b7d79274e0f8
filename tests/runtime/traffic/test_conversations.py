"""Turns of conversations share what was said before them."""

import json
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime.traffic.arrivals import Arrival, TrafficError
from mserve.runtime.traffic.conversations import Pace, estimated_tokens, read_conversations
from mserve.runtime.traffic.traces import detected, read_trace


def share_gpt(*said: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in said], **more}


def read(
    path: Path, *lines: Mapping[str, Any], pace: Pace | None = None, seed: int = 0
) -> list[Arrival]:
    """A character is a token, a block four tokens."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(read_conversations(path, len, random.Random(seed), pace or Pace(), 4))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


LONG = share_gpt(("human", "x" * 10), ("gpt", "y" * 5), ("human", "z" * 3), ("gpt", "w"), id="c1")


def test_every_answer_is_a_request(trace: Path) -> None:
    first, second = read(trace, LONG)
    assert (first.num_prompt, first.num_output) == (10, 5)
    assert (second.num_prompt, second.num_output) == (18, 1)
    assert first.session == second.session == "c1"
    assert first.at_s < second.at_s


def test_a_turn_shares_the_whole_blocks_of_the_one_before(trace: Path) -> None:
    first, second = read(trace, LONG)
    assert first.blocks[:2] == second.blocks[:2]
    assert first.blocks[2] not in second.blocks  # a partial block is another


def test_conversations_share_the_messages_that_they_begin_with(trace: Path) -> None:
    first = {"messages": [{"role": "system", "content": "s" * 9}, {"role": "user", "content": "a"}]}
    second = {
        "messages": [{"role": "system", "content": "s" * 9}, {"role": "user", "content": "b"}]
    }
    for line in (first, second):
        line["messages"].append({"role": "assistant", "content": "ok"})
    ours, theirs = read(trace, first, second)
    assert ours.blocks[:2] == theirs.blocks[:2]
    assert ours.blocks[2] != theirs.blocks[2]
    assert ours.session != theirs.session


def test_equal_messages_after_different_ones_are_not_shared(trace: Path) -> None:
    lines = [share_gpt(("system", text), ("human", "q" * 20), ("gpt", "a")) for text in "st"]
    ours, theirs = read(trace, *lines)
    assert not set(ours.blocks) & set(theirs.blocks)


def test_reading_streams(trace: Path) -> None:
    trace.write_text((json.dumps(LONG) + "\n") * 1000 + "broken")
    found = read_conversations(trace, len, random.Random(0), Pace(pause_s=0.1))
    assert [next(found).num_prompt for _ in range(100)]


def test_prompt_and_response(trace: Path) -> None:
    (found,) = read(trace, {"prompt": "hello", "response": ""})
    assert (found.num_prompt, found.num_output) == (5, 1)


def test_conversations_interleave_in_the_order_of_time(trace: Path) -> None:
    lines = [share_gpt(("human", "q"), ("gpt", "a"), ("human", "q"), ("gpt", "a"))] * 200
    found = read(trace, *lines, pace=Pace(conversations_per_s=2, pause_s=10))
    assert len(found) == 400
    assert all(before.at_s <= after.at_s for before, after in pairwise(found))
    starts: dict[str | None, list[float]] = {}
    for arrival in found:
        starts.setdefault(arrival.session, []).append(arrival.at_s)
    pauses = [second - first for first, second in starts.values()]
    assert sum(pauses) / 200 == pytest.approx(10, rel=0.25)
    assert max(first for first, _ in starts.values()) == pytest.approx(100, rel=0.25)
    assert found == read(trace, *lines, pace=Pace(conversations_per_s=2, pause_s=10))
    assert found != read(trace, *lines, pace=Pace(conversations_per_s=2, pause_s=10), seed=1)


def test_what_nobody_answered_is_passed_over(trace: Path) -> None:
    unanswered = share_gpt(("human", "is anybody there?"))
    answer_first = share_gpt(("gpt", "go on:"), ("human", "1, 2"), ("gpt", "3"))
    (found,) = read(trace, unanswered, answer_first)
    assert found.num_prompt == 10


def test_a_trace_of_conversations_is_recognised(trace: Path) -> None:
    trace.write_text(json.dumps(LONG))
    assert detected(trace) == "conversations"
    assert [a.num_prompt for a in read_trace(trace)] == [3, 6]


def test_a_line_without_words(trace: Path) -> None:
    with pytest.raises(
        TrafficError, match="line 2: there is neither prompt and response nor a con"
    ):
        read(trace, LONG, {"prompt": "hello"})


def test_only_unanswered_ones_are_no_traffic(trace: Path) -> None:
    trace.write_text(json.dumps(share_gpt(("human", "is anybody there?"))))
    with pytest.raises(TrafficError, match="holds no request"):
        list(read_trace(trace))


def test_tokens_are_estimated_by_bytes() -> None:
    assert [estimated_tokens(text) for text in ("", "a", "abcd", "abcde", "ää")] == [0, 1, 1, 2, 1]
