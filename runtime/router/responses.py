"""Bodies of the OpenAI API that the router itself writes: whole answers, usage, errors, models."""

from typing import Any

import msgspec

from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Finish, Render

_json = msgspec.json.Encoder().encode


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


def error_body(error: RequestError) -> bytes:
    return _json(
        {
            "error": {
                "message": error.detail,
                "type": error.kind,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_event(error: RequestError) -> bytes:
    """An error after the stream has begun."""
    return b"data: " + error_body(error) + b"\n\n"


def model_entry(model: str, created: int, max_model_len: int | None) -> dict[str, object]:
    """One model of `/v1/models`; the context's length where a worker has said it."""
    entry: dict[str, object] = {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": "mserve",
    }
    return entry if max_model_len is None else {**entry, "max_model_len": max_model_len}
