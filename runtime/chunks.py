"""Answers of the OpenAI API, rendered: the events that a streamed one is made of, and whole ones.

Workers render the text and its end (payloads of TOKENS frames, relayed unread); who answers the
client adds usage and `[DONE]`.
Pure functions of values, a microsecond each. Knows no HTTP and no request.
"""

import re
from typing import Any

import msgspec

from mserve.runtime.messages import Finish, Render

_json = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"

_COMPLETION = (
    b'data: {"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":'
    b'[{"index":0,"text":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
)
_CHAT = (
    b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":'
    b'[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
)
_REASON_KEY = b'"finish_reason":'
_REASON = re.compile(rb'"(\w+)"')


def chunk(
    render: Render, text: str, finish_reason: str | None = None, *, first: bool = False
) -> bytes:
    """The bytes of one piece of an answer in the form `render` asks for.

    `first` marks the first piece of a stream; where that stream also begins the answer
    (`render.first`), a chat chunk carries the role. A stream that another worker goes on with
    (not `render.last`) has no end at its length limit.
    """
    if finish_reason == "length" and not render.last:
        finish_reason = None
    if render.kind == "text":
        return text.encode()
    if render.kind == "chat":
        return chat_chunk(render, text, finish_reason, role=first and render.first)
    return completion_chunk(render, text, finish_reason)


def completion_chunk(render: Render, text: str, finish_reason: str | None = None) -> bytes:
    """One event of `/v1/completions`."""
    return _COMPLETION % (
        _json(render.id),
        render.created,
        _json(render.model),
        _json(text),
        _json(finish_reason),
    )


def chat_chunk(
    render: Render, text: str, finish_reason: str | None = None, *, role: bool = False
) -> bytes:
    """One event of `/v1/chat/completions`; the delta of an end without text is empty."""
    delta = {"role": "assistant"} if role else {}
    if text or role:
        delta["content"] = text
    return _CHAT % (
        _json(render.id),
        render.created,
        _json(render.model),
        _json(delta),
        _json(finish_reason),
    )


def end_reason(payload: bytes) -> str | None:
    """Why the answer ended, if the last event in `payload` ends it. (In text the key is escaped.)"""
    at = payload.rfind(_REASON_KEY)
    match = _REASON.match(payload, at + len(_REASON_KEY)) if at >= 0 else None
    return match[1].decode() if match else None


def usage(finish: Finish) -> dict[str, Any]:
    """`cached_tokens` are those that no engine had to compute for this request."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    }


def whole_answer(render: Render, text: str, finish: Finish, *, chat: bool) -> bytes:
    """The body of a request that does not stream."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish.reason}
    if chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    return _json(
        {
            "id": render.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": render.created,
            "model": render.model,
            "choices": [choice],
            "usage": usage(finish),
        }
    )


def usage_event(render: Render, finish: Finish) -> bytes:
    """The last event of a stream that asked for its usage."""
    body: dict[str, Any] = {
        "id": render.id,
        "object": "chat.completion.chunk" if render.kind == "chat" else "text_completion",
        "created": render.created,
        "model": render.model,
        "choices": [],
        "usage": usage(finish),
    }
    return b"data: " + _json(body) + b"\n\n"
