"""Child processes: started together, watched, stopped together; none outlives this process.

Each child leads a process group of its own, so that Ctrl-C reaches only us and what a child leaves
behind can be killed with it. Knows nothing of what the children do; `ready` tells.
"""

import asyncio
import ctypes
import os
import signal
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from mserve.runtime.errors import ConfigError

LOG_LINES = 50
_POLL_INTERVAL_S = 0.05
_PROBE_TIMEOUT_S = 1.0
_DRAIN_TIMEOUT_S = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process to start. `ready` is a URL that answers 200, or a call that returns true."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # on top of this process's own
    ready: str | Callable[[], Awaitable[bool]] | None = None
    kind: str = "worker"  # what messages call it
    log: Path | None = None  # its whole output, appended


@dataclass(frozen=True, slots=True)
class ChildExit:
    """A child that ended while serving. A negative `code` is the signal that killed it."""

    name: str
    pid: int
    code: int
    last_lines: Sequence[str]


class Supervisor:
    """Owns the children. `async with` stops them on the way out, whatever the way."""

    def __init__(
        self, on_exit: Callable[[ChildExit], object] | None = None, *, grace_s: float = 5.0
    ) -> None:
        self._on_exit = on_exit
        self._grace_s = grace_s
        self._running: dict[str, _Running] = {}

    async def start(self, children: Sequence[Child], *, timeout_s: float = 60.0) -> None:
        """Starts all and returns when all are ready.

        Raises ConfigError, with the child's last lines, if one exits before or is not ready in
        time; then, as when cancelled, none of them is left.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(self._start(child, timeout_s))
        except BaseException as error:
            await self._stop([child.name for child in children])
            if (refused := _config_error(error)) is not None:
                raise refused from None
            raise

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after the grace period."""
        await self._stop(list(self._running))

    def pid(self, name: str) -> int:
        return self._running[name].process.pid

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self, child: Child, timeout_s: float) -> None:
        assert child.name not in self._running, f"{child.name} is running already."
        running = await _Running.start(child)
        self._running[child.name] = running
        await running.wait_ready(timeout_s)
        running.exited.add_done_callback(lambda _: self._ended(running))

    async def _stop(self, names: Sequence[str]) -> None:
        ending = [running for name in names if (running := self._running.pop(name, None))]
        async with asyncio.TaskGroup() as group:
            for running in ending:
                group.create_task(running.stop(self._grace_s))

    def _ended(self, running: "_Running") -> None:
        """Only of children that nobody stopped: those are no longer in the table."""
        name = running.child.name
        if self._running.get(name) is not running or running.exited.cancelled():
            return
        del self._running[name]
        if self._on_exit is not None:
            code, lines = running.exited.result(), running.output.lines()
            self._on_exit(ChildExit(name, running.process.pid, code, lines))


class _Running:
    """One started child: its process, its output, and the task that waits for its end."""

    def __init__(
        self, child: Child, process: asyncio.subprocess.Process, output: "_Output"
    ) -> None:
        self.child = child
        self.process = process
        self.output = output
        self.exited = asyncio.create_task(self._wait(), name=f"wait for {child.name}")

    @classmethod
    async def start(cls, child: Child) -> "_Running":
        output, write_end = await _Output.open(child.log)
        try:
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                env={**os.environ, **child.env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        except BaseException as error:
            output.close()
            if isinstance(error, OSError):
                raise ConfigError(
                    f"{child.kind.capitalize()} {child.name} could not start: {error}"
                ) from None
            raise
        finally:
            os.close(write_end)
        return cls(child, process, output)

    async def wait_ready(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not self.exited.done():
            if await self._is_ready():
                return
            if loop.time() >= deadline:
                raise self._failure(f"was not ready within {timeout_s:g} s")
            await asyncio.wait([self.exited], timeout=_POLL_INTERVAL_S)
        raise self._failure(f"could not start (exit code {self.exited.result()})")

    async def stop(self, grace_s: float) -> None:
        try:
            with suppress(ProcessLookupError):
                self.process.terminate()
            await asyncio.wait([self.exited], timeout=grace_s)
        finally:  # also when cancelled: nobody is left
            if not self.exited.done():
                _kill_group(self.process.pid)
        await asyncio.wait([self.exited])

    async def _wait(self) -> int:
        code = await self.process.wait()
        _kill_group(self.process.pid)  # what the child left behind, which may hold the pipe
        await self.output.drained(_DRAIN_TIMEOUT_S)
        return code

    async def _is_ready(self) -> bool:
        match self.child.ready:
            case None:
                return True
            case str(url):
                return await answers_ok(url)
            case probe:
                return await probe()

    def _failure(self, what: str) -> ConfigError:
        lines = "\n".join(self.output.lines()) or "(it wrote nothing)"
        return ConfigError(
            f"{self.child.kind.capitalize()} {self.child.name} {what}. Last lines:\n{lines}"
        )


class _Output(asyncio.Protocol):
    """A child's standard output and error: the last lines, and all of it to a file if wanted.

    A pipe of our own, since with asyncio's a child counts as alive until every heir of the pipe
    has closed it.
    """

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self._lines: deque[bytes] = deque(maxlen=LOG_LINES)
        self._partial = b""
        self._ended = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None

    @classmethod
    async def open(cls, log: Path | None) -> tuple["_Output", int]:
        """The reader, and the descriptor to write to, which the caller closes."""
        try:
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab", buffering=0) if log else None
        except OSError as error:
            raise ConfigError(f"The log file {log} cannot be written: {error}") from None
        output = cls(file)
        read_end, write_end = os.pipe()
        loop = asyncio.get_running_loop()
        output._transport, _ = await loop.connect_read_pipe(
            lambda: output, os.fdopen(read_end, "rb", 0)
        )
        return output, write_end

    def data_received(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
        *whole, partial = (self._partial + data).split(b"\n")
        self._lines.extend(whole)
        self._partial = partial[-4096:]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._file is not None:
            self._file.close()
        self._ended.set()

    def lines(self) -> list[str]:
        last = [self._partial] if self._partial else []
        return [line.decode(errors="replace") for line in [*self._lines, *last]]

    async def drained(self, timeout_s: float) -> None:
        """Waits for the end of the output; someone who left the process group may hold it open."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def answers_ok(url: str) -> bool:
    """Whether a GET of this plain HTTP URL answers 200."""
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            return await _status(url) == b"200"
    except OSError:  # TimeoutError is one
        return False


async def _status(url: str) -> bytes:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        path = parts.path or "/"
        head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        return (await reader.readline())[9:12]  # after "HTTP/1.1 "
    finally:
        writer.close()


def free_port() -> int:
    """A loopback TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def dies_with_parent() -> Callable[[], None]:
    """What a new child runs before its program, so that the kernel kills it when we die.

    Everything it needs is looked up before the fork. The signal follows the thread that forks, so
    children are started from the loop's thread, which lives as long as the process.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
            os._exit(127)

    return bind


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _config_error(error: BaseException) -> ConfigError | None:
    """The first one in a task group's error."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _config_error(each))), None)
    return error if isinstance(error, ConfigError) else None
