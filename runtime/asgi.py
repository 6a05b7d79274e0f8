"""What the router's and the worker's HTTP fronts share: reading bodies, answering, noticing that a
client has gone. Raw ASGI; a streaming answer is written as it is made, and `send` is its brake.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import msgspec
from starlette.types import Receive, Send

from mserve.runtime.errors import RequestError, TooLarge

JSON = b"application/json"
Header = tuple[bytes, bytes]


class ClientGone(Exception):
    """The client closed its connection before its request was whole or answered."""


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body; raises TooLarge beyond `max_bytes`, ClientGone on a disconnect."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise TooLarge(f"The request's body is larger than {max_bytes} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


async def start(
    send: Send, status: int, content_type: bytes, headers: Iterable[Header] = ()
) -> None:
    """Begins an answer whose body follows in parts."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), *headers],
        }
    )


async def write(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes = JSON, headers: Iterable[Header] = ()
) -> None:
    """A whole answer at once."""
    await start(send, status, content_type, [(b"content-length", b"%d" % len(body)), *headers])
    await write(send, body, more=False)


async def respond_json(
    send: Send, body: object, status: int = 200, headers: Iterable[Header] = ()
) -> None:
    await respond(send, status, msgspec.json.encode(body), JSON, headers)


async def respond_problem(send: Send, error: RequestError) -> None:
    """An error between processes: `{type, title, detail, retryable, ...}`."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    body = {
        "type": error.kind,
        "title": type(error).__name__,
        "detail": error.detail,
        "retryable": error.retryable,
        "param": error.param,
    }
    await respond_json(send, body, error.status, headers)


@asynccontextmanager
async def cancelled_by_disconnect(
    receive: Receive, is_complete: Callable[[], bool] = lambda: False
) -> AsyncIterator[None]:
    """Cancels the body when the client goes; raises ClientGone then. Enter once the request's body
    has been read. After the last byte of an answer `receive` says "disconnect" as well: where work
    goes on then, `is_complete` tells."""
    scope = asyncio.timeout(None)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not is_complete():
            scope.reschedule(0.0)

    watcher = asyncio.create_task(watch())
    try:
        async with scope:
            yield
    except TimeoutError:
        if scope.expired():
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()
