"""An HTTP server that answers what a test tells it to, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

EVENTS = "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"


@dataclass
class Asked:
    """One request as the server saw it."""

    line: str
    headers: dict[str, str]
    body: Any
    connection: int  # counted from 0


@dataclass
class FakeServer:
    """`answer` gives the raw bytes for a request; None closes the connection instead, and so does,
    after it, an answer with `connection: close`."""

    answer: Callable[[Asked], bytes | None]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    num_connections: int = 0  # ever
    num_open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # no connection is open any more

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.num_connections = self.num_connections, self.num_connections + 1
        self.num_open += 1
        try:
            while line := await reader.readline():
                asked = await _request(line, reader, number)
                self.asked.append(asked)
                answer = self.answer(asked)
                if answer is None:
                    return
                writer.write(answer)
                if b"connection: close" in answer:
                    return
        except ConnectionError:
            pass  # the client left, as some tests have it do
        finally:
            self.num_open -= 1
            if not self.num_open:
                self.idle.set()
            writer.close()


async def _request(line: bytes, reader: asyncio.StreamReader, connection: int) -> Asked:
    headers = {}
    while (header := (await reader.readline()).decode().strip()) != "":
        name, _, value = header.partition(": ")
        headers[name] = value
    body = await reader.readexactly(int(headers["content-length"]))
    return Asked(line.decode().strip(), headers, json.loads(body) if body else None, connection)


@asynccontextmanager
async def fake_server(answer: Callable[[Asked], bytes | None]) -> AsyncIterator[FakeServer]:
    server = FakeServer(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()


def whole(body: Any, status: int = 200) -> bytes:
    """A JSON answer."""
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def streamed(*events: Any, headers: str = EVENTS, has_end: bool = True) -> bytes:
    """Events in chunks of their own, as JSON or as they are; without `has_end` the body goes on."""
    chunks = [
        event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in events
    ]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    end = b"0\r\n\r\n" if has_end else b""
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body + end


class Http:
    """What tests use of this module."""

    server = staticmethod(fake_server)
    whole = staticmethod(whole)
    streamed = staticmethod(streamed)


@pytest.fixture
def http() -> Http:
    return Http()
