"""Children that are started again when they end: at once the first time, later each time, and not for
ever. One that ends by itself with exit code 0 has left on purpose and is let go.

Knows processes (launch.py) and time; nothing of what the children do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mserve.runtime.cluster.launch import Child, ChildExit, Supervisor
from mserve.runtime.errors import ConfigError

_SHOWN_LINES = 10


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """A life shorter than `quick_s` is a quick death; after `max_quick` of them in a row it stays
    so. The n-th restart in a row waits 0, 1, 2, 4, ... times `delay_s`, at most `max_delay_s`."""

    delay_s: float = 1.0
    max_delay_s: float = 15.0
    quick_s: float = 30.0
    max_quick: int = 5

    def wait_s(self, num_quick: int) -> float:
        return 0.0 if num_quick < 2 else min(self.max_delay_s, self.delay_s * 2 ** (num_quick - 2))


class Restarter:
    """Owns the children, through a Supervisor. `async with` stops them on the way out.

    `on_exit` is awaited before a child that ended is started again: to tell those who know it.
    """

    def __init__(
        self,
        log: logging.Logger,
        policy: RestartPolicy | None = None,
        on_exit: Callable[[ChildExit], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log
        self._policy = policy or RestartPolicy()
        self._on_exit = on_exit
        self._supervisor = Supervisor(self._ended)
        self._children: dict[str, Child] = {}
        self._began_s: dict[str, float] = {}
        self._num_quick: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, children: Sequence[Child]) -> None:
        """As Supervisor.start: here the first failure is the caller's, nothing is tried again."""
        self._children = {child.name: child for child in children}
        await self._supervisor.start(children)
        self._began_s = dict.fromkeys(self._children, asyncio.get_running_loop().time())

    def pid(self, name: str) -> int:
        return self._supervisor.pid(name)

    async def __aenter__(self) -> "Restarter":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._supervisor.stop()

    def _ended(self, exit_: ChildExit) -> None:
        task = asyncio.create_task(self._follow(exit_), name=f"restart {exit_.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, exit_: ChildExit) -> None:
        child = self._children[exit_.name]
        if self._on_exit is not None:
            await self._on_exit(exit_)
        if exit_.code == 0:
            self._log.info("%s %s has left", child.kind, child.name)
            return
        last_lines = "\n  ".join(exit_.last_lines[-_SHOWN_LINES:])
        reason = f"{how_it_ended(exit_.code)}; its last lines:\n  {last_lines}"
        lived_s = asyncio.get_running_loop().time() - self._began_s[child.name]
        while await self._may_restart(child, lived_s, reason):
            lived_s = 0.0
            try:
                await self._supervisor.start([child])
            except ConfigError as error:
                reason = str(error)
                continue
            self._began_s[child.name] = asyncio.get_running_loop().time()
            self._log.warning("%s %s is back", child.kind, child.name)
            return

    async def _may_restart(self, child: Child, lived_s: float, reason: str) -> bool:
        """Says what happened, and waits; False if it was one death too many."""
        is_quick = lived_s < self._policy.quick_s
        num_quick = self._num_quick.get(child.name, 0) + 1 if is_quick else 1
        self._num_quick[child.name] = num_quick
        self._log.error("%s %s ended (%s)", child.kind, child.name, reason)
        if num_quick > self._policy.max_quick:
            self._log.error(
                "%s %s has died %d times in a row and is not started again",
                *(child.kind, child.name, num_quick),
            )
            return False
        wait_s = self._policy.wait_s(num_quick)
        when = f"in {wait_s:g} s" if wait_s else "now"
        self._log.warning("%s %s is started again %s", child.kind, child.name, when)
        await asyncio.sleep(wait_s)
        return True


def how_it_ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
