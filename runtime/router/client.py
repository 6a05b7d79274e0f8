"""The way to the workers: the `WorkerClient` seam, over HTTP/1.1 and in process.

Raw asyncio connections with httptools: one call per connection at a time, kept alive between calls.
Closing the iterator closes the connection, and that cancels the plan on that worker. Knows frames,
not what is in them.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import groupby
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import httptools
import msgspec
from msgspec import Struct

from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.cluster.signing import HEADER, CallSigner
from mserve.runtime.errors import BY_KIND, EngineFailure, RequestError, Unreachable, WorkerLost
from mserve.runtime.messages import Frame, FrameDecoder, FrameKind, PlanCall, encode

PLAN_PATH = "/v1/microserving/plan"
DRAIN_PATH = "/drain"
PAUSE_FRAMES = 256  # unread frames at which a connection stops reading from its socket
MAX_PROBLEM_BYTES = 64 << 10


class WorkerClient(Protocol):
    """Runs plan calls on workers."""

    def execute(self, worker: WorkerInfo, call: PlanCall) -> AsyncGenerator[Frame, None]:
        """The frames of the answer, as they come.

        Raises the worker's own error if it refuses the call, WorkerLost if it cannot be reached or
        its answer breaks off. Close the generator (`aclosing`) to cancel the call.
        """
        ...

    async def drain(self, worker: WorkerInfo) -> None:
        """Has it take no more plans, and leave when those it has are done. Raises as `execute`."""
        ...

    async def close(self) -> None: ...


class InProcessClient:
    """Hands calls to a function in this process: for tests, and for a worker beside its router."""

    def __init__(
        self,
        serve: Callable[[WorkerInfo, PlanCall], AsyncGenerator[Frame, None]],
        drain: Callable[[WorkerInfo], None] = lambda worker: None,
    ) -> None:
        self._serve = serve
        self._drain = drain

    def execute(self, worker: WorkerInfo, call: PlanCall) -> AsyncGenerator[Frame, None]:
        return self._serve(worker, call)

    async def drain(self, worker: WorkerInfo) -> None:
        self._drain(worker)

    async def close(self) -> None:
        """Nothing to close."""


class HttpClient:
    """Keeps idle connections per worker address, newest first, at most `max_idle` each.

    `signer` is for workers that take signed calls only; `tls` for those at `https://` addresses.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 2.0,
        max_idle: int = 256,
        signer: CallSigner | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._signer = signer
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._idle: dict[str, list[_Connection]] = {}

    async def execute(self, worker: WorkerInfo, call: PlanCall) -> AsyncGenerator[Frame, None]:
        connection = await self._respond(
            worker, _request(worker, PLAN_PATH, encode(call), self._signer)
        )
        try:
            if connection.status != 200:
                raise _refusal(worker, connection.status, await connection.body())
            while batch := await connection.frames():
                for frame in merge_tokens(batch):
                    yield frame
        except OSError as error:
            raise _lost(worker, str(error)) from error
        finally:
            self._give_back(worker.url, connection)

    async def drain(self, worker: WorkerInfo) -> None:
        connection = await self._respond(worker, _request(worker, DRAIN_PATH, b"", self._signer))
        try:
            if connection.status != 200:
                raise _refusal(worker, connection.status, await connection.body())
        finally:
            connection.abort()

    async def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    async def _respond(self, worker: WorkerInfo, request: bytes) -> "_Connection":
        """A connection on which the head of the answer has arrived.

        A kept connection may have been closed by the worker just now: if not one byte of an answer
        came, the call goes out once more, on a fresh one (calls are idempotent by plan and step). If
        there is none to be had then, the worker may have begun with the first call, and ended of it.
        """
        kept = self._take(worker.url)
        if kept is not None:
            try:
                return await self._exchange(kept, request)
            except OSError as error:
                if kept.has_answered:
                    raise _lost(worker, str(error)) from error
        try:
            fresh = await self._connect(worker)
        except Unreachable as error:
            if kept is None:
                raise
            raise _lost(worker, str(error)) from error
        try:
            return await self._exchange(fresh, request)
        except OSError as error:
            raise _lost(worker, str(error)) from error

    async def _exchange(self, connection: "_Connection", request: bytes) -> "_Connection":
        try:
            connection.send(request)
            await connection.head()
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _connect(self, worker: WorkerInfo) -> "_Connection":
        """Raises Unreachable."""
        parts = urlsplit(worker.url)
        loop = asyncio.get_running_loop()
        is_tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
        tls = (self._tls or ssl.create_default_context()) if is_tls else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(_Connection, host, port, ssl=tls)
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no connection in time"
            detail = f"Worker {worker.name} at {worker.url} cannot be reached: {reason}"
            raise Unreachable(detail) from error
        return connection

    def _take(self, url: str) -> "_Connection | None":
        idle = self._idle.get(url, [])
        while idle:
            connection = idle.pop()
            if connection.is_reusable:
                return connection
        return None

    def _give_back(self, url: str, connection: "_Connection") -> None:
        idle = self._idle.setdefault(url, [])
        if connection.is_reusable and len(idle) < self._max_idle:
            idle.append(connection)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection and the answer being read from it; httptools calls the `on_...` methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._decoder = FrameDecoder()
        self._frames: deque[Frame] = deque()
        self._body = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: OSError | None = None
        self._has_head = False
        self._is_complete = True
        self._is_paused = False
        self.status = 0
        self.has_answered = False  # at least one byte of the current answer came

    # --- what a call does, in this order ---

    def send(self, request: bytes) -> None:
        self._check()
        assert self._transport is not None, "a connection is used before it was made"
        self._has_head = self._is_complete = self.has_answered = False
        self._transport.write(request)

    async def head(self) -> None:
        while not self._has_head:
            await self._wait()

    async def frames(self) -> list[Frame]:
        """All frames that are there, at least one; none at the answer's end. Raises OSError."""
        while not self._frames and not self._is_complete:
            await self._wait()
        batch = list(self._frames)
        self._frames.clear()
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        if not batch and self._decoder.pending:
            raise ConnectionError("the answer ended in the middle of a frame")
        return batch

    async def body(self) -> bytes:
        while not self._is_complete:
            await self._wait()
        body = bytes(self._body)
        self._body.clear()
        return body

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_reusable(self) -> bool:
        return self._is_complete and self._failure is None and not self._frames

    async def _wait(self) -> None:
        self._check()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: OSError) -> None:
        self._failure = self._failure or error
        self.abort()
        self._wake()

    # --- from the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self.has_answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"it answered what is not HTTP with frames: {error}"))
            return
        if len(self._frames) > PAUSE_FRAMES and self._transport and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = str(exc) if exc else "it closed the connection"
        self._failure = self._failure or ConnectionError(reason)
        self._wake()

    # --- from the parser ---

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        if self.status == 200:
            self._frames.extend(self._decoder.feed(data))
        elif len(self._body) < MAX_PROBLEM_BYTES:
            self._body += data

    def on_message_complete(self) -> None:
        self._is_complete = True
        if not self._parser.should_keep_alive():
            self._failure = self._failure or ConnectionError("it closes after each answer")


def merge_tokens(batch: list[Frame]) -> list[Frame]:
    """Makes one of neighbouring TOKENS frames: what arrived together is relayed in one piece."""
    if len(batch) < 2:
        return batch
    merged: list[Frame] = []
    for is_tokens, group in groupby(batch, key=_is_tokens):
        frames = list(group)
        if is_tokens and len(frames) > 1:
            tokens = b"".join([frame.tokens for frame in frames])
            payload = b"".join([frame.payload for frame in frames])
            frames = [Frame(FrameKind.TOKENS, tokens, payload)]
        merged += frames
    return merged


def _is_tokens(frame: Frame) -> bool:
    return frame.kind is FrameKind.TOKENS


class _ProblemBody(Struct):
    """The problem object of a refused call; `type` is a kind, or ends in one after a slash."""

    kind: str = ""
    type: str = ""
    title: str = ""
    detail: str = ""
    param: str | None = None
    retry_after_s: float | None = None


_decode_problem = msgspec.json.Decoder(_ProblemBody).decode


def _request(worker: WorkerInfo, path: str, body: bytes, signer: CallSigner | None) -> bytes:
    signed = f"{HEADER}: {signer.sign(worker.name, 'POST', path, body)}\r\n" if signer else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {urlsplit(worker.url).netloc}\r\n{signed}"
        f"content-type: application/msgpack\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _refusal(worker: WorkerInfo, status: int, body: bytes) -> RequestError:
    """The typed error of a problem object; by its status where it says no kind of ours."""
    try:
        problem = _decode_problem(body)
    except msgspec.DecodeError:
        problem = _ProblemBody(detail=f"worker {worker.name} answered {status} without a reason")
    kind = problem.kind or problem.type.rpartition("/")[2]
    by_status = (cls for cls in BY_KIND.values() if cls.status == status)
    cls = BY_KIND.get(kind) or next(by_status, EngineFailure)
    detail = problem.detail or problem.title or f"worker {worker.name} answered {status}"
    return cls(detail, param=problem.param, retry_after_s=problem.retry_after_s)


def _lost(worker: WorkerInfo, reason: str) -> WorkerLost:
    return WorkerLost(f"worker {worker.name} at {worker.url} is lost: {reason}")
