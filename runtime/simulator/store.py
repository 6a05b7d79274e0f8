"""The registry and the prefix index of a virtual cluster: in memory, and sometimes out of reach.

While they are, callers meet what they would meet of Redis: writers an Unavailable, routers what they
knew last. `Gate` holds back the calls of a frozen worker.
"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from mserve.runtime.clock import Clock
from mserve.runtime.cluster.membership import (
    HEARTBEAT_TIMEOUT_S,
    BlockEvents,
    Member,
    WorkerInfo,
    WorkerStats,
)
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.registry import MemoryRegistry, in_order
from mserve.runtime.errors import Unavailable


class Store:
    """Owns both; `is_away` takes both out of reach."""

    def __init__(self, clock: Clock) -> None:
        self.registry = MemoryRegistry(clock)
        self.index = MemoryPrefixIndex()
        self.is_away = False

    def check(self) -> None:
        if self.is_away:
            raise Unavailable("The cluster's store cannot be reached.", retry_after_s=1.0)


class Gate:
    """Open, or closed: then those who pass wait until it opens."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    async def passed(self) -> None:
        if not self._opened.is_set():
            await self._opened.wait()


class StoreRegistry:
    """Implements `Registry` for one process. Members are remembered while the store is away, and for
    one time-out after, as each must have the time to announce itself again."""

    def __init__(self, store: Store, clock: Clock, gate: Gate | None = None) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._last: dict[str, tuple[float, Member]] = {}
        self._kept_until = clock.now()

    async def announce(self, info: WorkerInfo) -> None:
        await self._reach()
        await self._store.registry.announce(info)

    async def heartbeat(self, name: str, incarnation: str, stats: WorkerStats) -> bool:
        await self._reach()
        return await self._store.registry.heartbeat(name, incarnation, stats)

    async def leave(self, name: str, incarnation: str) -> None:
        await self._reach()
        await self._store.registry.leave(name, incarnation)

    async def members(self) -> list[Member]:
        now = self._clock.now()
        if self._store.is_away:
            self._kept_until = now + HEARTBEAT_TIMEOUT_S
        else:
            members = await self._store.registry.members()
            found = {member.info.name: (now - member.age_s, member) for member in members}
            self._last = self._last | found if now < self._kept_until else found
        return in_order(
            replace(member, age_s=now - heard_s) for heard_s, member in self._last.values()
        )

    async def close(self) -> None:
        """The store is the cluster's."""

    async def _reach(self) -> None:
        if self._gate is not None:
            await self._gate.passed()
        self._store.check()


class StoreIndex:
    """Implements `PrefixIndex` for one process."""

    def __init__(self, store: Store, gate: Gate | None = None) -> None:
        self._store = store
        self._gate = gate

    async def publish(self, worker: str, incarnation: str, events: BlockEvents) -> bool:
        if self._gate is not None:
            await self._gate.passed()
        return not self._store.is_away and await self._store.index.publish(
            worker, incarnation, events
        )

    async def resync(
        self, worker: str, incarnation: str, sequence: int, blocks: Sequence[int]
    ) -> None:
        if self._gate is not None:
            await self._gate.passed()
        self._store.check()
        await self._store.index.resync(worker, incarnation, sequence, blocks)

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        return {} if self._store.is_away else await self._store.index.lookup(keys)

    async def forget(self, worker: str, incarnation: str | None = None) -> None:
        self._store.check()
        await self._store.index.forget(worker, incarnation)

    async def close(self) -> None:
        """The store is the cluster's."""
