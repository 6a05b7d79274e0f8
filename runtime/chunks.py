"""Answers of the OpenAI API, rendered: the events that a streamed one is made of, and whole ones.

Workers render the text and its end (payloads of TOKENS frames, relayed unread); who answers the
client adds usage and `[DONE]`.
Pure functions of values, a microsecond each. Knows no HTTP and no request.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mserve.runtime.logprobs import joined
from mserve.runtime.messages import Finish, Render

Json = dict[str, Any]

_json = msgspec.json.Encoder().encode
_read = msgspec.json.Decoder().decode

DONE = b"data: [DONE]\n\n"

_COMPLETION = (
    b'data: {"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":'
    b'[{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}]}\n\n'
)
_CHAT = (
    b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":'
    b'[{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]}\n\n'
)
_REASON_KEY = b'"finish_reason":'
_REASON = re.compile(rb'"(\w+)"')


def chunk(
    render: Render,
    text: str,
    finish_reason: str | None = None,
    *,
    first: bool = False,
    logprobs: Json | None = None,
) -> bytes:
    """The bytes of one piece of an answer in the form `render` asks for.

    `first` marks the first piece of a stream; where that stream also begins the answer
    (`render.first`), a chat chunk carries the role. A stream that another worker goes on with
    (not `render.last`) has no end at its length limit. Bare text has no place for `logprobs`.
    """
    if finish_reason == "length" and not render.last:
        finish_reason = None
    if render.kind == "text":
        return text.encode()
    if render.kind == "completion":
        return _COMPLETION % _fields(render, text, finish_reason, logprobs)
    begins = first and render.first
    delta = {"role": "assistant"} if begins else {}
    if text or begins:
        delta["content"] = text
    return _CHAT % _fields(render, delta, finish_reason, logprobs)


def _fields(
    render: Render, content: object, finish_reason: str | None, logprobs: Json | None
) -> tuple[bytes | int, ...]:
    return (
        _json(render.id),
        render.created,
        _json(render.model),
        render.index,
        _json(content),
        _json(logprobs),
        _json(finish_reason),
    )


def read_events(payload: bytes) -> Iterator[Json]:
    """The choices in a sequence of such pieces."""
    for line in payload.split(b"\n\n"):
        if line:
            yield from _read(line.removeprefix(b"data: "))["choices"]


def end_reason(payload: bytes) -> str | None:
    """Why the answer ended, if the last event in `payload` ends it. (In text the key is escaped.)"""
    at = payload.rfind(_REASON_KEY)
    match = _REASON.match(payload, at + len(_REASON_KEY)) if at >= 0 else None
    return match[1].decode() if match else None


def usage(finish: Finish) -> Json:
    """`cached_tokens` are those that no engine had to compute for this request."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    }


@dataclass(frozen=True, slots=True)
class WholeChoice:
    """One choice of an answer that does not stream."""

    text: str
    reason: str
    logprobs: Json | None = None

    @classmethod
    def of_events(cls, payload: bytes, reason: str) -> "WholeChoice":
        """From the pieces that would have been streamed."""
        events = list(read_events(payload))
        texts = [e["text"] if "text" in e else e["delta"].get("content", "") for e in events]
        return cls("".join(texts), reason, joined(e["logprobs"] for e in events))

    def body(self, index: int, *, chat: bool) -> Json:
        body: Json = {
            "index": index,
            "logprobs": self.logprobs,
            "finish_reason": self.reason,
        }
        if chat:
            body["message"] = {"role": "assistant", "content": self.text, "refusal": None}
        else:
            body["text"] = self.text
        return body


def whole_answer(
    render: Render, choices: Sequence[WholeChoice], finish: Finish, *, chat: bool
) -> bytes:
    """The body of a request that does not stream; `finish` has the counts of all choices."""
    return _json(
        {
            "id": render.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": render.created,
            "model": render.model,
            "choices": [choice.body(index, chat=chat) for index, choice in enumerate(choices)],
            "usage": usage(finish),
        }
    )


def usage_event(render: Render, finish: Finish) -> bytes:
    """The last event of a stream that asked for its usage."""
    body: Json = {
        "id": render.id,
        "object": "chat.completion.chunk" if render.kind == "chat" else "text_completion",
        "created": render.created,
        "model": render.model,
        "choices": [],
        "usage": usage(finish),
    }
    return b"data: " + _json(body) + b"\n\n"
