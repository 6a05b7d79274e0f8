"""Requests of every kind, drawn from a seed, and what their clients saw. For bench/chaos.py and tests/faults.

Every answer is the only possible one: it is greedy, or its draws come from a seed. So the answers of
a disturbed cluster can be compared with those of a calm one. Clients here neither try again nor wait
longer than a real one would.
"""

import http.client
import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["completions", "chat"]
_PROMPTS = ("prompt", "messages")
PATHS: Mapping[Kind, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
STORY = "The little girl opened the door and went into the garden. "
HOLDING = ["e#", " t#", ". #"]  # stop strings that never come, but whose beginnings hold text back
STYLES: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "scored": {},  # with log probabilities, which each kind asks for in its own way
    "held back": {"stop": HOLDING},
    "stopped": {"stop": [" the", ".", " and"]},
    "stopped late": {
        "structured_outputs": {"regex": "([a-z]{1,9} ){20,22}THE END [a-z ]{1,99}"},
        "stop": ["E EN"],
    },
    "penalised": {"presence_penalty": 0.7, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    "seeded": {"temperature": 0.9, "top_p": 0.95, "top_k": 60, "stop": HOLDING},
    "seeded and penalised": {"temperature": 1.0, "min_p": 0.02, "frequency_penalty": 0.8},
    "biased": {"logit_bias": {"300": 2.5, "400": -3.0}, "min_tokens": 12},
    "of a form": {"structured_outputs": {"regex": "([a-z]{1,9} ){30,60}"}},
}


_PLAIN = ("greedy", "scored", "held back", "stopped")
NEAR = 1e-4  # of log probabilities in float32


@dataclass(frozen=True)
class Asked:
    """One request; `must_fail` with that status, if it is not 0."""

    style: str
    kind: Kind
    body: Mapping[str, Any]
    must_fail: int = 0

    @property
    def path(self) -> str:
        return PATHS[self.kind]


@dataclass
class Seen:
    """What a client got. `error` is the message of the error it ended with; `broken`, how the
    connection ended where the answer had not."""

    asked: Asked
    url: str
    began_s: float
    ended_s: float = 0.0
    status: int = 0
    plan_id: str = ""
    text: str = ""
    arrived_s: list[float] = field(default_factory=list)  # when each piece came (monotonic)
    finish: str = ""
    completion_tokens: int = 0
    scored: list[tuple[str, int]] = field(default_factory=list)  # tokens with logprobs, offsets
    error: str = ""
    error_type: str = ""
    has_left: bool = False
    broken: str = ""

    @property
    def is_whole(self) -> bool:
        return bool(self.finish) and not (self.error or self.broken or self.has_left)

    @property
    def result(self) -> tuple[str, str, int, list[tuple[str, int]]]:
        return self.text, self.finish, self.completion_tokens, self.scored

    def resumed_after(self, moment_s: float) -> float:
        """Seconds from `moment_s` to the first piece after the longest pause from then on."""
        ends = [moment_s, *(at for at in self.arrived_s if at > moment_s)]
        pauses = ((end - begin, end) for begin, end in pairwise(ends))
        _, end = max(pauses, default=(0.0, moment_s))
        return end - moment_s


def request(style: str, kind: Kind, prompt: str, *, max_tokens: int = 48, **more: Any) -> Asked:
    """A streamed request in one of the STYLES."""
    asked: dict[str, Any] = {"prompt": prompt}
    if kind == "chat":
        asked = {"messages": [{"role": "user", "content": prompt}]}
    body = {
        **asked,
        "model": "mserve-tiny",
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": len(prompt),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **STYLES[style],
        **more,
    }
    if "structured_outputs" in body:
        del body["ignore_eos"]  # a form says itself where the answer ends
    if style == "scored":
        body |= {"logprobs": True, "top_logprobs": 2} if kind == "chat" else {"logprobs": 2}
    return Asked(style, kind, {key: value for key, value in body.items() if value is not None})


def catalogue(rng: random.Random, size: int) -> list[Asked]:
    """Requests long and short, many of them with a beginning in common; one that nobody can serve."""
    beginnings = [f"{rng.randrange(1000)} {STORY * rng.choice((1, 8, 30, 45))}" for _ in range(4)]
    found = [_drawn(rng, rng.choice(beginnings)) for _ in range(size)]
    hopeless = request("greedy", "completions", "Once", max_tokens=1 << 20)
    return [*found, Asked(hopeless.style, hopeless.kind, hopeless.body, must_fail=400)]


def _drawn(rng: random.Random, beginning: str) -> Asked:
    kinds: tuple[Kind, ...] = ("completions", "chat")
    whole = {"stream": None, "stream_options": None} if rng.random() < 0.25 else {}
    prompt = f"{beginning}{rng.choice(('Once', 'Then', 'But', 'One day'))} {rng.randrange(100)}"
    style, kind = rng.choice(list(STYLES)), rng.choice(kinds)
    num_tokens = rng.choice((1, 4, 24, 48, 90))
    least = min(num_tokens, STYLES[style].get("min_tokens", 0))
    more: dict[str, Any] = {**whole, "seed": rng.randrange(1 << 40), "min_tokens": least}
    return request(style, kind, prompt, max_tokens=num_tokens, **more)


def ask(url: str, asked: Asked, *, leave_after: int | None = None, timeout_s: float = 60) -> Seen:
    """Reads the answer to its end, or leaves after `leave_after` pieces of it (0: at once)."""
    seen = Seen(asked, url, time.monotonic())
    netloc = urlsplit(url).netloc
    try:
        with closing(http.client.HTTPConnection(netloc, timeout=timeout_s)) as line:
            line.request("POST", asked.path, json.dumps(asked.body))
            if leave_after == 0:
                seen.has_left = True
            else:
                _read(line.getresponse(), seen, leave_after)
    except (OSError, http.client.HTTPException) as error:
        seen.broken = f"{type(error).__name__}: {error}"
    seen.ended_s = time.monotonic()
    return seen


def _read(response: http.client.HTTPResponse, seen: Seen, leave_after: int | None) -> None:
    seen.status = response.status
    seen.plan_id = response.headers.get("x-mserve-plan", "").partition(";")[0]
    if response.status != 200 or not seen.asked.body.get("stream"):
        body = response.read()
        try:
            _take(json.loads(body), seen)
        except ValueError:
            seen.error = f"status {response.status}, not JSON: {body!r}"  # and of no type
    else:
        for event in _events(response):
            if event is None:
                return
            _take(event, seen)
            if seen.error:
                return
            if leave_after is not None and len(seen.arrived_s) >= leave_after:
                seen.has_left = True
                return
        seen.broken = "the stream ended without its end"


def _events(response: http.client.HTTPResponse) -> Iterator[Any]:
    """The events of a stream; None for `[DONE]`."""
    for row in response:
        if row.startswith(b"data: "):
            yield None if row.startswith(b"data: [DONE]") else json.loads(row[6:])


def _take(event: Mapping[str, Any], seen: Seen) -> None:
    if "error" in event:
        seen.error, seen.error_type = event["error"]["message"], event["error"]["type"]
        return
    if event.get("usage"):
        seen.completion_tokens = event["usage"]["completion_tokens"]
    for choice in event["choices"]:
        message = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or message.get("content") or ""
        seen.scored += _scored(choice["logprobs"])
        seen.finish = choice["finish_reason"] or seen.finish
        if text:
            seen.text += text
            seen.arrived_s.append(time.monotonic())


def _scored(logprobs: Mapping[str, Any] | None) -> list[tuple[str, int]]:
    """The values themselves differ in their last digits with what else is in a batch."""
    if logprobs is None:
        return []
    if "tokens" in logprobs:
        return list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))
    return [(entry["token"], len(entry["top_logprobs"])) for entry in logprobs["content"]]


def has_near_tie(url: str, asked: Asked) -> bool:
    """Whether a greedy answer hangs on the last digits of two tokens' probabilities somewhere: which of
    them is the larger one depends on what else is in a batch."""
    if asked.style not in _PLAIN:
        return False
    scores = {"logprobs": True, "top_logprobs": 2} if asked.kind == "chat" else {"logprobs": 2}
    body = {
        key: value for key, value in asked.body.items() if key not in ("stream", "stream_options")
    }
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as line:
        line.request("POST", asked.path, json.dumps(body | scores))
        found = json.loads(line.getresponse().read())["choices"][0]["logprobs"]
    if asked.kind == "chat":
        tops = [[each["logprob"] for each in entry["top_logprobs"]] for entry in found["content"]]
    else:
        tops = [sorted(each.values(), reverse=True) for each in found["top_logprobs"]]
    return any(first - second < NEAR for first, second, *_ in tops)


def difference(seen: Seen, expected: Seen | None) -> str:
    """One answer and the one that it should be, in a few lines."""
    asked = {key: value for key, value in seen.asked.body.items() if key not in _PROMPTS}
    lines = [f"{seen.asked.style} {seen.asked.kind} {asked}, plan {seen.plan_id} at {seen.url}"]
    for each in (seen, expected):
        if each is not None:
            how = f"status {each.status} {each.error_type} {each.error} {each.broken}".strip()
            lines.append(f"  {how} after {each.ended_s - each.began_s:.2f} s: {each.result}")
    return "\n".join(lines)


def fault_of(seen: Seen, expected: Seen | None, *, router_died: bool) -> str:
    """What is wrong with an answer; "" for one that is as it must be. `expected` is the answer that
    a calm cluster gives."""
    is_excused = seen.has_left or (bool(seen.broken) and router_died)
    has_reason = bool(seen.error and seen.error_type)
    if seen.asked.must_fail:
        is_refused = seen.status in (seen.asked.must_fail, 503) and has_reason
        return "" if is_refused or is_excused else "not refused"
    assert expected is not None, "every request that can be served has an answer"
    if seen.is_whole:
        return "" if seen.result == expected.result else "another answer"
    if not expected.text.startswith(seen.text):
        return "not the beginning of the answer"
    if is_excused or (has_reason and not seen.broken):
        return ""
    return "the connection broke" if seen.broken else "no reason for the failure"
