"""Runs an ASGI app on a socket of our own with uvicorn, until cancelled. The one place that knows it.

The socket is bound before anything slow starts, so that a port in use is known at once.
"""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from mserve.runtime.errors import ConfigError

_JSON = [(b"content-type", b"application/json")]
_STOPPING = b'{"error":{"message":"The server is stopping.","type":"unavailable_error"}}'
Result = TypeVar("Result")

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


def url_of(listener: socket.socket, advertise: str = "") -> str:
    """`http://host:port` of the socket: at `advertise`, else where this machine reaches it."""
    host, port = listener.getsockname()[:2]
    host = advertise or {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serves until cancelled; then lets running requests end for `GRACE_S`."""
    stopping = asyncio.Event()
    config = uvicorn.Config(
        _ended_quietly(app, stopping),
        http="httptools",
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
