"""A streamed answer, cut into any pieces, and everything that can be wrong with it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.traffic.answers import StreamedAnswer, problem_text

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "x-mserve-plan": "7d0c; route=split; version=2",
}
TEXT = b'data: {"id":"a","choices":[{"index":0,"text":"%d","finish_reason":%b}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":9,'
    b'"prompt_tokens_details":{"cached_tokens":32}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = TEXT % (1, b"null") + b": ping\n\n" + TEXT % (2, b'"length"') + USAGE + DONE


def answer(*pieces: tuple[bytes, float], status: int = 200) -> StreamedAnswer:
    found = StreamedAnswer()
    found.begin(status, HEADERS)
    for data, now_s in pieces:
        found.feed(data, now_s)
    return found


@given(st.lists(st.integers(0, len(STREAM)), max_size=8), st.booleans())
def test_events_may_be_cut_anywhere(cuts: list[int], is_windows: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if is_windows else STREAM
    ends = [0, *sorted(cuts), len(stream)]
    found = answer(*((stream[a:b], 1.0) for a, b in pairwise(ends)))
    assert found.is_done
    assert found.ended() is None
    assert found.usage is not None
    assert (found.num_pieces, found.num_output, found.usage.cached) == (2, 9, 32)
    assert (found.first_s, found.route) == (1.0, "split")


def test_times_are_those_of_pieces_with_choices() -> None:
    pieces = [(TEXT % (n, b"null"), now_s) for n, now_s in enumerate([1.0, 1.5, 3.0, 3.1])]
    found = answer((b": ping\n\n", 0.5), *pieces, (USAGE, 5.0), (DONE, 6.0))
    assert (found.first_s, found.last_s, found.max_gap_s) == (1.0, 3.1, 1.5)


def test_without_usage_pieces_are_counted() -> None:
    found = answer((TEXT % (1, b"null") * 3, 1.0), (DONE, 1.0))
    assert found.num_output == 3


def test_a_usage_of_null_in_every_event() -> None:
    found = answer((b'data: {"choices":[{"text":"a"}],"usage":null}\n\n' + USAGE + DONE, 1.0))
    assert found.num_output == 9


@pytest.mark.parametrize(
    ("stream", "failure"),
    [
        (TEXT % (1, b"null"), ("cut off", "The stream ended without its last event.")),
        (USAGE + DONE, ("empty", "The answer has no token.")),
        (
            b'data: {"error":{"message":"gone","type":"engine_error","param":null}}\n\n',
            ("engine_error", "gone"),
        ),
        (b'data: {"error":"gone"}\n\n', ("error event", "gone")),
        (b"data: {\n\n", ("malformed event", "Input data was truncated.")),
    ],
)
def test_streams_that_fail(stream: bytes, failure: tuple[str, str]) -> None:
    found = answer((stream, 1.0))
    assert found.ended() == failure


def test_an_error_after_tokens_keeps_their_times() -> None:
    found = answer((TEXT % (1, b"null"), 1.0), (b'data: {"error":{"message":"x"}}\n\n', 2.0))
    assert (found.first_s, found.num_output) == (1.0, 1)
    assert found.ended() == ("error event", "x")


def test_an_end_without_done_is_an_end_too() -> None:
    assert answer((TEXT % (1, b'"stop"'), 1.0)).ended() is None


def test_a_refusal_says_why() -> None:
    found = answer((b'{"error":{"message":"full', 1.0), (b'","type":"x"}}', 1.0), status=429)
    assert found.ended() == ("status 429", "full")


def test_a_body_that_is_no_stream() -> None:
    found = StreamedAnswer()
    found.begin(200, {"content-type": "application/json"})
    found.feed(b'{"choices":[]}', 1.0)
    failure = found.ended()
    assert failure is not None
    assert failure[0] == "no event stream"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"error":"no"}', "no"),
        (b'{"object":"error","message":"no","code":400}', "no"),
        (b'{"detail":"no"}', "no"),
        (b"<html>no", "<html>no"),
        (b"", ""),
    ],
)
def test_words_of_refusals(body: bytes, words: str) -> None:
    assert problem_text(body) == words
