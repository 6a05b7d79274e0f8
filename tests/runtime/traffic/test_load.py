"""A whole test against a server that answers at once: what it sends, and what it notes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mserve.runtime.clock import LoopClock
from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.load import LoadOptions, LoadTest
from mserve.runtime.traffic.replay import Progress
from mserve.runtime.traffic.spec import TrafficOptions

SPEC = "poisson:rate=100,input=60,output=4,num=5"
LISTED = {"data": [{"id": "tiny", "max_model_len": 100}]}


def answering(http: Any, num_output: int = 4, status: int = 200) -> Callable[[Any], bytes]:
    piece = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
    usage = {"prompt_tokens": 60, "completion_tokens": num_output}

    def answer(asked: Any) -> bytes:
        if asked.line.startswith("GET"):
            return bytes(http.whole(LISTED))
        if "stream" not in asked.body:
            return bytes(http.whole({"choices": []}))
        if status != 200:
            return bytes(http.whole({"error": {"message": "full"}}, status))
        last = {"choices": [], "usage": usage}
        return bytes(http.streamed(piece, piece, last, b"data: [DONE]\n\n"))

    return answer


def load(
    http: Any, answer: Callable[[Any], bytes], **options: Any
) -> tuple[LoadTest, list[Any], list[Progress]]:
    async def main() -> tuple[LoadTest, list[Any], list[Progress]]:
        async with http.server(answer) as server:
            options.setdefault("traffic", TrafficOptions(SPEC))
            test = LoadTest(LoadOptions(server.url, prompt_seed=1, **options))
            shown: list[Progress] = []
            await test.run(LoopClock(), shown.append)
            return test, [each.body for each in server.asked if each.body], shown

    return asyncio.run(main())


def notes(test: LoadTest) -> list[str]:
    """But that this machine is busy."""
    return [note for note in test.notes() if not note.startswith("This client was too slow")]


def test_every_arrival_is_sent_once(http: Any) -> None:
    test, bodies, _ = load(http, answering(http))
    assert test.progress is not None
    assert [outcome.error for outcome in test.progress.outcomes] == [""] * 5
    sent = [body for body in bodies if "stream" in body]
    assert [(len(body["prompt"]), body["max_tokens"]) for body in sent] == [(60, 4)] * 5
    assert len({tuple(body["prompt"]) for body in sent}) == 5
    assert not notes(test)


@pytest.mark.parametrize(
    ("options", "num_output", "status", "note"),
    [
        ({"scale": 2.0}, 8, 200, "5 requests were longer than the model's context"),
        ({}, 2, 200, "5 answers ended before the length"),
        ({}, 2, 429, "status 429: full"),
    ],
)
def test_what_must_be_said(
    http: Any, options: Any, num_output: int, status: int, note: str
) -> None:
    test, _, _ = load(http, answering(http, num_output, status), **options)
    (said,) = notes(test)
    assert said.startswith(note)


def test_progress_is_shown_while_it_runs(http: Any) -> None:
    trace = "poisson:rate=5,input=60,output=4,num=3,cv=0"
    test, _, shown = load(http, answering(http), traffic=TrafficOptions(trace))
    assert len(shown) >= 2
    assert shown[0] is test.progress


def test_traffic_that_holds_no_request(http: Any) -> None:
    with pytest.raises(ConfigError, match="--duration"):
        load(http, answering(http), traffic=TrafficOptions(SPEC, duration_s=1e-9))


def test_an_interruption_is_noted(http: Any) -> None:
    async def main() -> LoadTest:
        async with http.server(answering(http)) as server:
            trace = "poisson:rate=20,input=60,output=4,num=100,cv=0"
            test = LoadTest(LoadOptions(server.url, TrafficOptions(trace), prompt_seed=1))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await test.run(LoopClock(), lambda progress: None)
            return test

    test = asyncio.run(main())
    assert test.progress is not None
    assert test.progress.outcomes
    note = next(test.notes(is_interrupted=True))
    assert f"{100 - test.progress.num_sent} were not sent" in note
