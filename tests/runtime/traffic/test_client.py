"""The client's connections: kept, taken again, and what it says when they break."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.answers import StreamedAnswer, WholeAnswer
from mserve.runtime.traffic.client import Client, Server

PIECE = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}
DONE = b"data: [DONE]\n\n"


def run(
    http: Any,
    answer: Callable[[Any], bytes | None],
    use: Callable[[Client, Any], Coroutine[Any, Any, Any]],
    path: str = "",
) -> Any:
    async def main() -> Any:
        async with http.server(answer) as server:
            client = Client(Server.at(server.url + path), time.monotonic, "secret")
            try:
                return await use(client, server)
            finally:
                client.close()

    return asyncio.run(main())


async def post(client: Client) -> StreamedAnswer:
    answer = StreamedAnswer()
    await client.post("/v1/completions", b'{"a": 1}', answer)
    return answer


def test_a_streamed_answer(http: Any) -> None:
    async def use(client: Client, server: Any) -> tuple[StreamedAnswer, Any]:
        return await post(client), server.asked[0]

    answer, asked = run(http, lambda _: http.streamed(PIECE, PIECE, DONE), use, "/api/v1/")
    assert answer.is_done
    assert answer.num_pieces == 2
    assert asked.line == "POST /api/v1/completions HTTP/1.1"
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.body == {"a": 1}


def test_connections_are_kept(http: Any) -> None:
    async def use(client: Client, server: Any) -> int:
        for _ in range(3):
            await post(client)
        await asyncio.gather(post(client), post(client))
        await post(client)
        return int(server.num_connections)

    assert run(http, lambda _: http.streamed(PIECE, DONE), use) == 2


def test_a_kept_connection_that_was_closed_is_made_anew(http: Any) -> None:
    def answer(asked: Any) -> bytes | None:
        is_second = asked.connection == 0 and len(asked_lines) == 1
        asked_lines.append(asked.line)
        return None if is_second else bytes(http.streamed(PIECE, DONE))

    async def use(client: Client, server: Any) -> int:
        await post(client)
        second = await post(client)
        assert second.is_done
        return int(server.num_connections)

    asked_lines: list[str] = []
    assert run(http, answer, use) == 2


CLOSING = "connection: close\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"


def test_a_connection_that_breaks_in_an_answer(http: Any) -> None:
    async def use(client: Client, server: Any) -> StreamedAnswer:
        answer = StreamedAnswer()
        with pytest.raises(ConnectionError, match="closed the connection"):
            await client.post("/v1/completions", b"{}", answer)
        assert server.num_connections == 1, "a request that was answered is not sent again"
        return answer

    found = run(http, lambda _: http.streamed(PIECE, headers=CLOSING, has_end=False), use)
    assert found.num_pieces == 1


def test_a_request_that_is_cancelled_gives_its_connection_up(http: Any) -> None:
    async def use(client: Client, server: Any) -> int:
        answer = StreamedAnswer()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.post("/v1/completions", b"{}", answer)
        assert answer.num_pieces == 1
        async with asyncio.timeout(5):
            await server.idle.wait()  # it sees that nobody wants the answer
        await client.get("/v1/models", WholeAnswer())
        return int(server.num_connections)

    def answer(asked: Any) -> bytes:
        is_get = asked.line.startswith("GET")
        return bytes(http.whole({}) if is_get else http.streamed(PIECE, has_end=False))

    assert run(http, answer, use) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [(lambda _: None, "closed the connection"), (lambda _: b"SSH-2.0\r\n", "not HTTP")],
)
def test_a_server_that_is_none(http: Any, answer: Any, words: str) -> None:
    async def use(client: Client, server: Any) -> None:
        with pytest.raises(ConnectionError, match=words):
            await post(client)

    run(http, answer, use)


def test_nobody_there() -> None:
    async def main() -> None:
        client = Client(Server("127.0.0.1", 1), time.monotonic)
        with pytest.raises(ConnectionRefusedError):
            await client.get("/v1/models", WholeAnswer())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://h:80", Server("h", 80)),
        ("h:9/v1", Server("h", 9)),
        ("https://h/api/v1/", Server("h", 443, "/api", True)),
        ("http://[::1]:8", Server("::1", 8)),
    ],
)
def test_urls(url: str, server: Server) -> None:
    assert Server.at(url) == server


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", "http://h:99999"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL"):
        Server.at(url)


def test_an_address_of_colons_gets_its_brackets() -> None:
    assert Server("::1", 8).authority == "[::1]:8"
