"""Calls that an engine refuses: they change nothing."""

from dataclasses import replace
from typing import Any

import pytest

from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.fake_runner import FakeWorker
from mserve.runtime.errors import (
    BadRequest,
    Conflict,
    NotFound,
    RequestError,
    TooLarge,
    Unprocessable,
)
from mserve.runtime.messages import (
    CommitCall,
    PlanCall,
    PrepRecvCall,
    ReleaseCall,
    RemoteSendCall,
    Sampling,
    StartGenerateCall,
    StepCall,
)

PROMPT = [(7 * index) % 256 for index in range(30)]


def worker_of(**limits: Any) -> FakeWorker:
    config = EngineConfig(num_pages=40, page_size=4, chunk_tokens=8, max_model_len=128)
    return FakeWorker(replace(config, **limits))


def start(begin: int = 0, max_tokens: int = 4) -> StartGenerateCall:
    return StartGenerateCall("generate", begin, Sampling(max_tokens=max_tokens))


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ((), Unprocessable),
        ((RemoteSendCall("s", 0, 31, ()),), Unprocessable),
        ((RemoteSendCall("s", 8, 4, ()),), Unprocessable),
        ((PrepRecvCall("r", -1, 4, "t"),), Unprocessable),
        ((PrepRecvCall("r", 0, 8, "t"), PrepRecvCall("q", 4, 12, "u")), Unprocessable),
        ((PrepRecvCall("r", 0, 8, "t"), PrepRecvCall("q", 8, 12, "t")), Conflict),
        ((start(30),), Unprocessable),
        ((start(max_tokens=0),), Unprocessable),
        ((StartGenerateCall("g", 0, Sampling(max_tokens=2, min_tokens=3)),), Unprocessable),
        ((start(), start()), Conflict),
        ((CommitCall("c", "t"),), NotFound),
        ((ReleaseCall("c", "t"),), NotFound),
    ],
)
def test_a_call_that_makes_no_sense_changes_nothing(
    steps: tuple[StepCall, ...], error: type[RequestError]
) -> None:
    worker = worker_of()
    with pytest.raises(error):
        worker.submit("a", PROMPT, *steps)
    worker.finish()


def test_a_prompt_that_could_never_run_is_refused() -> None:
    worker = worker_of()
    with pytest.raises(TooLarge):
        worker.submit("a", [1] * 129, RemoteSendCall("s", 0, 4, ()))
    with pytest.raises(TooLarge):
        worker.submit("a", [1] * 128, start())
    with pytest.raises(TooLarge, match="do not fit"):
        worker_of(num_pages=7).submit("a", PROMPT, start())
    with pytest.raises(Unprocessable, match="vocabulary"):
        worker_of(vocab_size=100).submit("a", PROMPT, start())
    with pytest.raises(Unprocessable):
        worker.submit("a", [], start())
    with pytest.raises(BadRequest):
        worker.engine.submit(PlanCall("a", b"123", (start(),)), 0.0)
    worker.finish()


def test_a_second_call_must_fit_the_first() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, start())
    with pytest.raises(Conflict, match="generates already"):
        worker.submit("a", PROMPT, start())
    with pytest.raises(Conflict, match="other tokens"):
        worker.submit("a", [*PROMPT, 1], RemoteSendCall("s", 0, 4, ()))
    worker.step()
    with pytest.raises(Conflict, match="late"):
        worker.submit("a", PROMPT, PrepRecvCall("r", 0, 8, "t"))
    worker.run()
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    worker.finish()
