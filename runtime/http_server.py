"""Runs an ASGI app on a socket of our own with uvicorn, until cancelled. The one place that knows it.

The socket is bound before anything slow starts, so that a port in use is known at once.
"""

import asyncio
import errno
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mserve.runtime.errors import ConfigError

_JSON = [(b"content-type", b"application/json")]
_STOPPING = b'{"error":{"message":"The server is stopping.","type":"unavailable_error"}}'
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may take of a server before any of our code has seen its request."""

    max_url_bytes: int = 8 << 10
    max_head_bytes: int = 32 << 10  # all headers of a request together
    max_headers: int = 100
    request_timeout_s: float = 30.0  # from a request's first byte to its body's last
    max_connections: int = 8192


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the certificate with its chain, and its private key."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raises ConfigError if they cannot be used, before anything has started."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"--tls-cert {self.certificate} and --tls-key {self.key} cannot be used: {error}."
            ) from None


GRACE_S = 3  # for requests still running when the server stops; less than a supervisor waits


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit these. A peer that vanished without a word is noticed in some 20 s.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OverflowError:
        listener.close()
        raise ConfigError(f"--port goes from 0 to 65535, not {port}.") from None
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} on {host} is in use. Stop what uses it, or choose another with --port."
            ) from None
        raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, advertise: str = "", scheme: str = "http") -> str:
    """`http://host:port` of the socket: at `advertise`, else where this machine reaches it."""
    host, port = listener.getsockname()[:2]
    host = advertise or {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def serve(
    app: ASGIApp, listener: socket.socket, tls: Tls | None = None, limits: Limits | None = None
) -> None:
    """Serves until cancelled; then lets running requests end for `GRACE_S`."""
    stopping = asyncio.Event()
    config = uvicorn.Config(
        _ended_quietly(app, stopping),
        http=partial(_LimitedProtocol, limits or Limits()),  # type: ignore[arg-type]  # a maker does
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    # `_serve` is `serve` without the signal handlers: those are ours (run_until_stopped).
    serving = asyncio.ensure_future(server._serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        stopping.set()
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving


_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class _Refused(Exception):
    """Ends the parser's work at a request that goes beyond its limits."""


class _LimitedProtocol(HttpToolsProtocol):
    """One connection, closed with a sentence when it goes beyond `Limits`; uvicorn with httptools
    has no limit of its own. The clock of a request runs from its first byte to its last."""

    def __init__(self, limits: Limits, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._head_bytes = 0  # of the headers that are whole
        self._raw_bytes = 0  # received since the request's first ones, while its head goes on
        self._in_head = True
        self._num_begun = self._num_read = 0  # requests
        self._deadline: asyncio.TimerHandle | None = None
        self._why = (400, "This is not an HTTP request.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn has no types here
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._close(503, f"This server has {self._limits.max_connections} connections already.")
            return
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        num_read = self._num_read
        super().data_received(data)
        # A header that never ends reaches no callback of the parser: its bytes are counted here, but
        # for those that came together with the end of the request before.
        in_head = self._in_head and self._num_begun > self._num_read == num_read
        if in_head and not self.transport.is_closing():
            self._raw_bytes += len(data)
            if self._raw_bytes > self._limits.max_head_bytes + self._limits.max_url_bytes:
                self._close(431, f"The headers exceed {self._limits.max_head_bytes} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._raw_bytes, self._in_head = 0, 0, True
        self._num_begun += 1
        if self._deadline is None:
            self._await_request()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._limits.max_url_bytes:
            self._refuse(414, f"The URL exceeds {self._limits.max_url_bytes} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.max_head_bytes:
            self._refuse(431, f"The headers exceed {self._limits.max_head_bytes} bytes.")
        if len(self.headers) > self._limits.max_headers:
            self._refuse(431, f"The request has more than {self._limits.max_headers} headers.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_clock()
        self._num_read += 1
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._close(*self._why)

    def _refuse(self, status: int, why: str) -> None:
        self._why = (status, why)
        raise _Refused(why)

    def _await_request(self) -> None:
        timeout_s = self._limits.request_timeout_s
        self._deadline = self.loop.call_later(timeout_s, self._too_slow)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        seconds = self._limits.request_timeout_s
        self._close(408, f"The request was not whole within {seconds:g} seconds.")

    def _close(self, status: int, why: str) -> None:
        """Answers with an error object, unless an answer is under way, and closes."""
        self._stop_clock()
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = b'{"error":{"message":"%s","type":"invalid_request_error"}}' % why.encode()
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def _ended_quietly(app: ASGIApp, stopping: asyncio.Event) -> ASGIApp:
    """Requests that outlast the grace period are cancelled: that is no fault worth a traceback."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not stopping.is_set():
                raise
            with suppress(RuntimeError):  # an answer that has begun just ends
                await send({"type": "http.response.start", "status": 503, "headers": _JSON})
                await send({"type": "http.response.body", "body": _STOPPING})

    return wrapped


def run_until_stopped(main: Callable[[asyncio.Event], Coroutine[Any, Any, Result]]) -> Result:
    """Runs `main(stop)` on uvloop; SIGINT and SIGTERM set `stop`."""

    async def with_signals() -> Result:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(with_signals())
