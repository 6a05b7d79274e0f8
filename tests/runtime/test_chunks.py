"""Rendered events: what the OpenAI API says they look like, for any text."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.chunks import chunk, end_reason
from mserve.runtime.messages import Render

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def parse(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event.removeprefix(b"data: "))


@given(TEXTS, TEXTS)
def test_a_completion_chunk_carries_its_text(text: str, model: str) -> None:
    body = parse(chunk(Render("completion", "cmpl-1", 5, model), text))
    assert body == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": model,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": None}],
    }


@given(TEXTS)
def test_only_the_first_chat_chunk_of_an_answer_has_the_role(text: str) -> None:
    begins, goes_on = Render("chat", "c", 5, "m"), Render("chat", "c", 5, "m", first=False)
    first = parse(chunk(begins, text, first=True))["choices"][0]["delta"]
    assert first == {"role": "assistant", "content": text}
    for later in (chunk(begins, text), chunk(goes_on, text, first=True)):
        assert "role" not in parse(later)["choices"][0]["delta"]


def test_an_end_without_text_has_an_empty_delta() -> None:
    choice = parse(chunk(Render("chat"), "", "stop"))["choices"][0]
    assert (choice["delta"], choice["finish_reason"]) == ({}, "stop")


def test_a_stream_that_another_worker_goes_on_with_has_no_end_at_its_limit() -> None:
    render = Render("completion", last=False)
    assert parse(chunk(render, "x", "length"))["choices"][0]["finish_reason"] is None
    assert parse(chunk(render, "x", "stop"))["choices"][0]["finish_reason"] == "stop"


def test_bare_text_is_utf8() -> None:
    assert chunk(Render("text"), "größer", "stop") == "größer".encode()


@given(TEXTS)
def test_the_end_is_seen_in_the_last_event_alone(text: str) -> None:
    render = Render("completion")
    hostile = text + '"finish_reason":"stop"'
    assert end_reason(chunk(render, hostile)) is None
    assert end_reason(chunk(render, text) + chunk(render, hostile, "length")) == "length"
    assert end_reason(chunk(render, text, "stop") + chunk(render, text)) is None
    assert end_reason(b"") is None
