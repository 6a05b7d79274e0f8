"""One client of an OpenAI-compatible server: sends a request, times the pieces of its answer.

Raw asyncio connections with httptools, kept alive between requests. Nothing wakes up per token: pieces
are read where they arrive, in the connection's callback, so that one core follows many streams. Knows
what answers look like, not when requests are due.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.answers import AnswerReader

MAX_IDLE = 4096


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is: `prefix` is the path before `/v1`."""

    host: str
    port: int
    prefix: str = ""
    is_tls: bool = False

    @classmethod
    def at(cls, url: str) -> "Server":
        """From any form in which people write it. Raises ConfigError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(f"{url!r} is not the URL of a server: http://HOST:PORT is one.")
        is_tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or (443 if is_tls else 80), prefix, is_tls)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Client:
    """Requests to one server, each on a connection of its own while it runs.

    `now` is the clock of the times in answers.
    """

    def __init__(self, server: Server, now: Callable[[], float], api_key: str = "") -> None:
        self._server = server
        self._now = now
        self._api_key = api_key
        self._tls = ssl.create_default_context() if server.is_tls else None
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes, reader: AnswerReader) -> None:
        """Returns at the answer's end; `reader` has had all of it by then.

        Raises OSError if the connection cannot be made or breaks before.
        """
        await self._exchange(self._request("POST", path, body), reader)

    async def get(self, path: str, reader: AnswerReader) -> None:
        """As `post`."""
        await self._exchange(self._request("GET", path, b""), reader)

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _exchange(self, request: bytes, reader: AnswerReader) -> None:
        """A server may close a kept connection just when it is taken: if not one byte came back,
        the request goes out once more, on a fresh one."""
        while self._idle:
            kept = self._idle.pop()
            if not kept.is_reusable:
                continue
            try:
                return await self._run(kept, request, reader)
            except OSError:
                if kept.has_answered:
                    raise
        return await self._run(await self._connect(), request, reader)

    async def _run(self, connection: "_Connection", request: bytes, reader: AnswerReader) -> None:
        try:
            await connection.exchange(request, reader)
        finally:
            if connection.is_reusable and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.abort()

    async def _connect(self) -> "_Connection":
        loop, server = asyncio.get_running_loop(), self._server
        _, connection = await loop.create_connection(
            lambda: _Connection(self._now), server.host, server.port, ssl=self._tls
        )
        return connection

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        server = self._server
        key = f"authorization: Bearer {self._api_key}\r\n" if self._api_key else ""
        head = (
            f"{method} {server.prefix}{path} HTTP/1.1\r\nhost: {server.authority}\r\n{key}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """One connection and the answer being read from it; httptools calls the `on_...` methods."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._reader: AnswerReader | None = None
        self._end: asyncio.Future[None] | None = None
        self._is_complete = True
        self._is_lost = False
        self._headers: dict[str, str] = {}
        self.has_answered = False  # at least one byte of the current answer came

    @property
    def is_reusable(self) -> bool:
        return self._is_complete and not self._is_lost

    async def exchange(self, request: bytes, reader: AnswerReader) -> None:
        """Returns at the answer's end. Raises OSError."""
        if self._is_lost or self._transport is None:
            raise ConnectionError("the server closed the connection")
        self._end = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._headers = {}
        self._is_complete = self.has_answered = False
        self._transport.write(request)
        try:
            await self._end
        finally:
            self._end = self._reader = None

    def abort(self) -> None:
        self._is_lost = True
        if self._transport is not None:
            self._transport.abort()

    # --- from the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self.has_answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the answer is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(str(exc) if exc else "the server closed the connection"))

    def _fail(self, error: OSError) -> None:
        self.abort()
        if self._end is not None and not self._end.done():
            self._end.set_exception(error)

    # --- from the parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._reader is not None:
            self._reader.begin(self._parser.get_status_code(), self._headers)

    def on_body(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.feed(data, self._now())

    def on_message_complete(self) -> None:
        self._is_complete = True
        self._is_lost = self._is_lost or not self._parser.should_keep_alive()
        if self._end is not None and not self._end.done():
            self._end.set_result(None)
