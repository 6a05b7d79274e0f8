"""What a server refuses before any of our code has seen a request."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from mserve.runtime.http_server import Limits, bind, serve

LIMITS = Limits(
    max_url_bytes=100,
    max_head_bytes=500,
    max_headers=10,
    request_timeout_s=0.3,
    max_connections=3,
)
OK = b"HTTP/1.1 200 OK"
Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def served(use: Callable[[Open], Awaitable[Any]]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> Any:
        listener = bind("127.0.0.1", 0)
        server = asyncio.create_task(serve(app, listener, limits=LIMITS))
        port = listener.getsockname()[1]
        try:
            return await use(lambda: asyncio.open_connection("127.0.0.1", port))
        finally:
            server.cancel()
            with suppress(asyncio.CancelledError):
                await server
            listener.close()

    return asyncio.run(main())


def exchange(*parts: bytes) -> bytes:
    """What a connection answers to `parts`, up to its end; b"" parts wait a moment."""

    async def use(connect: Open) -> bytes:
        reader, writer = await connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    answer: bytes = served(use)
    return answer


def test_what_is_within_the_limits_is_served() -> None:
    head = b"GET /%s HTTP/1.1\r\nconnection: close\r\nx: %s\r\n\r\n" % (b"u" * 90, b"v" * 400)
    assert exchange(head).startswith(OK)


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        (b"GET /%s HTTP/1.1\r\n\r\n" % (b"u" * 101), 414, b"URL exceeds 100 bytes"),
        (b"GET / HTTP/1.1\r\nx: %s\r\n\r\n" % (b"v" * 500), 431, b"headers exceed 500 bytes"),
        (b"GET / HTTP/1.1\r\n%s\r\n" % (b"x: y\r\n" * 11), 431, b"more than 10 headers"),
        (b"GET / HTTP/1.1\r\nx: %s" % (b"v" * 5000), 431, b"headers exceed 500 bytes"),
        (b"GET / HTTP/1.1\r\n%s" % (b"v" * 5000), 431, b"headers exceed 500 bytes"),
        (b"nonsense\r\n\r\n", 400, b"not an HTTP request"),
        (b"", 408, b"not whole within 0.3 seconds"),
        (b"GET / HTTP/1.1\r\nx: y", 408, b"not whole within 0.3 seconds"),
        (b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc", 408, b"not whole within 0.3 seconds"),
    ],
)
def test_what_goes_beyond_is_refused_with_a_sentence(
    request_: bytes, status: int, says: bytes
) -> None:
    answer = exchange(request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert says in answer


def test_a_header_in_small_pieces_counts_as_one() -> None:
    async def use(connect: Open) -> bytes:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(6):  # each is far below the limit
            writer.write(b"v" * 100)
            await asyncio.sleep(0.005)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    assert served(use).startswith(b"HTTP/1.1 431 ")


def test_a_request_behind_a_long_body_is_not_charged_for_it() -> None:
    body = b"b" * 3000
    first = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def use(connect: Open) -> list[bytes]:
        reader, writer = await connect()
        writer.write(first + body + b"GET / HTTP/1.1\r\nx: ")
        answers = [await reader.readuntil(b"ok")]
        writer.write(b"y\r\n\r\n")
        answers.append(await asyncio.wait_for(reader.readuntil(b"ok"), 5))
        writer.close()
        return answers

    assert all(answer.startswith(OK) for answer in served(use))


def test_a_kept_connection_may_ask_again_later() -> None:
    """The clock runs while a request is being sent, not between two."""

    async def use(connect: Open) -> list[bytes]:
        reader, writer = await connect()
        answers = []
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answers.append(await reader.readuntil(b"ok"))
            await asyncio.sleep(LIMITS.request_timeout_s * 1.5)
        writer.close()
        return answers

    assert all(answer.startswith(OK) for answer in served(use))


def test_connections_beyond_the_limit_are_told_so() -> None:
    async def use(connect: Open) -> bytes:
        held = [await connect() for _ in range(LIMITS.max_connections)]
        reader, writer = await connect()
        answer = await asyncio.wait_for(reader.read(), 5)
        for _, each in [*held, (reader, writer)]:
            each.close()
        return answer

    answer = served(use)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"has 3 connections already" in answer
