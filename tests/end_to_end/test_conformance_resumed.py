"""What docs/openai.md says of answers whose worker was lost: each row is answered twice, the second
time with the generating worker killed in its middle, and nothing may differ.

All rows run at once, so that one death disturbs them all. The strategy has a worker that generates
only when the usual one is gone: where an answer is, and where it goes on, is never a matter of luck.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text("utf-8")
STRATEGIES = {
    "split": """strategy split "prompts apart, and a worker in reserve"
pool prefill
pool decode
pool reserve
let p = argmin(prefill_backlog(w) for w in prefill)
route usual { compute prompt on p  generate on argmin(load(w) for w in decode) }
route instead { compute prompt on p  generate on argmin(load(w) for w in reserve) }
""",
    "whole": """strategy whole "whole requests, and a worker in reserve"
pool decode
pool reserve
route usual { generate on argmin(load(w) for w in decode) }
route instead { generate on argmin(load(w) for w in reserve) }
""",
}
TEXT = "The old harbour was quiet that evening, and "
NUM_TOKENS = 160
# Of this seed no draw lies so near the limit between two tokens that rounding, which depends on what
# else is in the batch, could move it across (within 1e-4, for plain, penalised and biased answers).
DRAWN = {"temperature": 0.9, "top_k": 20, "seed": 18}
FREE = {**DRAWN, "ignore_eos": True}
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
NUMBERS = {
    "type": "object",
    "properties": {"n": {"type": "array", "items": {"type": "integer", "minimum": 100_000_000,
                                                    "maximum": 999_999_999},
                         "minItems": 15, "maxItems": 15}},
    "required": ["n"],
    "additionalProperties": False,
}  # fmt: skip
JSON = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": NUMBERS}}
CASES: Mapping[str, dict[str, Any]] = {
    "seed": FREE,
    "logprobs": FREE | {"logprobs": 3},
    "top_logprobs": FREE | {"logprobs": True, "top_logprobs": 3},
    "n": FREE | {"n": 3},
    "response_format": DRAWN | {"response_format": JSON, "max_tokens": 900},
    "structured_outputs": DRAWN | {"structured_outputs": {"regex": "([a-z]{4} ){30}"}},
    "stop": FREE | {"stop": ["placed by the test"]},
    "penalties": FREE
    | {"presence_penalty": 1, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    "logit_bias": FREE | {"logit_bias": {str(token): 4 for token in range(300, 340)}},
    "echo": FREE | {"echo": True},
    "include_usage": FREE,
}
CHAT = {"top_logprobs", "response_format", "include_usage"}


@dataclass(frozen=True)
class Outcome:
    """What must be the same: for each choice text, end and logprobs; and the tokens' counts."""

    texts: dict[int, str]
    reasons: dict[int, str]
    logprobs: dict[int, list[Any]]
    usage: dict[str, int]


def outcome(answer: Any) -> Outcome:
    """Of a JSON body, or of the text of a stream."""
    if isinstance(answer, str):
        events = [json.loads(line[6:]) for line in answer.split("\n\n") if line[:7] == "data: {"]
        assert answer.endswith("data: [DONE]\n\n"), answer[-300:]
    else:
        events = [answer]
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        index, content = choice["index"], choice.get("delta") or choice.get("message") or {}
        texts[index] = texts.get(index, "") + choice.get("text", content.get("content", ""))
        if choice["finish_reason"]:
            assert index not in reasons, "a choice ended twice"
            reasons[index] = choice["finish_reason"]
        logprobs.setdefault(index, []).extend(scored(choice["logprobs"]))
    usage = {key: events[-1]["usage"][key] for key in COUNTS}
    return Outcome(texts, reasons, logprobs, usage)


def scored(piece: Any) -> list[Any]:
    """One entry a token, whatever the form: (what must be equal, what must be nearly so)."""
    if piece is None:
        return []
    if "content" in piece:
        return [
            ((e["token"], e["bytes"]), [e["logprob"], *(t["logprob"] for t in e["top_logprobs"])])
            for e in piece["content"]
        ]
    rows = (piece[key] for key in ("tokens", "text_offset", "token_logprobs", "top_logprobs"))
    return [
        ((token, offset), [own, *sorted(top.values())])
        for token, offset, own, top in zip(*rows, strict=True)
    ]


def assert_same(found: Outcome, wanted: Outcome, case: str) -> None:
    assert found.texts == wanted.texts, case
    assert found.reasons == wanted.reasons, case
    assert found.usage == wanted.usage, case
    for index, entries in wanted.logprobs.items():
        again = found.logprobs[index]
        assert [exact for exact, _ in again] == [exact for exact, _ in entries], case
        for (_, values), (_, others) in zip(again, entries, strict=True):
            assert values == pytest.approx(others, abs=1e-3), case


class Round:
    """All cases under way at once, each streamed and whole. Requests are known by their ids."""

    def __init__(self, server: Any, bodies: Mapping[str, dict[str, Any]]) -> None:
        self._server = server
        self._earlier = {entry["id"] for entry in self._listed()}
        self._num_choices = sum(2 * body.get("n", 1) for body in bodies.values())
        self._pool = ThreadPoolExecutor(2 * len(bodies))
        self._answers: dict[tuple[str, bool], Future[Any]] = {
            (case, stream): self._pool.submit(self._ask, case, body, stream)
            for case, body in bodies.items()
            for stream in (True, False)
        }

    def _ask(self, case: str, body: dict[str, Any], stream: bool) -> Any:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        prompt: dict[str, Any] = (
            {"messages": [{"role": "user", "content": TEXT}]} if case in CHAT else {"prompt": TEXT}
        )
        path = "/v1/chat/completions" if case in CHAT else "/v1/completions"
        base = {"model": "mserve-tiny", "max_tokens": NUM_TOKENS}
        status, answer, _ = self._server.ask(path, base | prompt | body | options)
        assert status == 200, answer
        return answer

    def _listed(self) -> list[Any]:
        listed: list[Any] = self._server.ask("/v1/plans")[1]["plans"]
        return listed

    def plans(self) -> list[Any]:
        """The records of this round's plans, as they are now."""
        mine = [entry["id"] for entry in self._listed() if entry["id"] not in self._earlier]
        return [self._server.ask(f"/v1/plans/{plan_id}")[1] for plan_id in mine]

    def wait_until_all_have_begun(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            plans = self.plans()
            assert not any(plan["ended_ms"] for plan in plans), "answers are too short for this"
            if len([plan for plan in plans if plan["first_token_ms"]]) == self._num_choices:
                return
        raise AssertionError("some answers did not begin")

    def outcomes(self) -> dict[tuple[str, bool], Outcome]:
        with self._pool:
            return {key: outcome(answer.result()) for key, answer in self._answers.items()}


def kill(server: Any, pool: str) -> None:
    """The engine process of the only worker of a pool."""
    (engine,) = [
        engine
        for front, engine in server.workers()
        if f"--pool\0{pool}\0" in Path(f"/proc/{front}/cmdline").read_text()
    ]
    os.kill(engine, signal.SIGKILL)


def with_a_late_stop(server: Any) -> dict[str, dict[str, Any]]:
    """The cases, with a stop string that stands far on in the answer for the first time."""
    body = {"model": "mserve-tiny", "prompt": TEXT, "max_tokens": NUM_TOKENS, **FREE}
    _, answer, _ = server.ask("/v1/completions", body)
    text = answer["choices"][0]["text"]
    late = next(
        text[at : at + 12]
        for at in range(len(text) * 7 // 8, len(text))
        if text.find(text[at : at + 12]) == at
    )
    return {**CASES, "stop": CASES["stop"] | {"stop": ["never said", late]}}


@pytest.fixture(params=["split", pytest.param("whole", marks=pytest.mark.chaos)])
def server(request: pytest.FixtureRequest, serve: Any, tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / f"{request.param}.mserve"
    path.write_text(STRATEGIES[request.param], "utf-8")
    with serve(str(path)) as running:
        yield running


def test_an_answer_that_lost_its_worker_is_the_undisturbed_one(server: Any) -> None:
    cases = with_a_late_stop(server)
    undisturbed = Round(server, cases).outcomes()
    disturbed = Round(server, cases)
    disturbed.wait_until_all_have_begun()
    kill(server, "decode")
    found = disturbed.outcomes()
    for plan in disturbed.plans():
        routes = [attempt["route"] for attempt in plan["attempts"]]
        assert routes == ["usual", "instead"], "not disturbed in its middle"
    for (case, stream), wanted in undisturbed.items():
        assert_same(found[case, stream], wanted, f"{case}, {'streamed' if stream else 'whole'}")
        assert_same(found[case, stream], undisturbed[case, not stream], f"{case}, in both forms")
    check_meaning(undisturbed, cases)


def check_meaning(answers: Mapping[tuple[str, bool], Outcome], cases: Mapping[str, Any]) -> None:
    """The cases show what they are about."""
    plain = answers["seed", False]
    assert len(json.loads(answers["response_format", False].texts[0])["n"]) == 15
    assert re.fullmatch("([a-z]{4} ){30}", answers["structured_outputs", False].texts[0])
    assert answers["stop", False].reasons == {0: "stop"}
    assert plain.texts[0].startswith(answers["stop", False].texts[0])
    assert cases["stop"]["stop"][1] not in answers["stop", False].texts[0]
    assert answers["echo", False].texts[0] == TEXT + plain.texts[0]
    assert answers["n", False].texts[0] == plain.texts[0]
    assert answers["n", False].usage["completion_tokens"] == 3 * NUM_TOKENS
    for changed in ("penalties", "logit_bias"):
        assert answers[changed, False].texts != plain.texts
    for case in ("logprobs", "top_logprobs"):
        assert len(answers[case, False].logprobs[0]) == NUM_TOKENS


def test_every_row_is_a_case_and_every_case_a_row() -> None:
    (section,) = re.findall(r"^## After a worker was lost\n(.*?)^## ", PAGE, re.M | re.S)
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(CASES)
