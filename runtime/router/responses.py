"""Bodies of the OpenAI API that the router itself writes: errors, models."""

import msgspec

from mserve.runtime.errors import RequestError

_json = msgspec.json.Encoder().encode


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
