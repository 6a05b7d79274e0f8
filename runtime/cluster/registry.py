"""The registry in memory: for one process, for tests and for the simulator.

Knows nothing of processes or connections; a worker is alive if it was heard from recently.
"""

from collections.abc import Iterable

import msgspec

from mserve.runtime.clock import Clock
from mserve.runtime.cluster.membership import (
    HEARTBEAT_TIMEOUT_S,
    Member,
    WorkerInfo,
    WorkerStats,
)
from mserve.runtime.cluster.succession import Succession


class MemoryRegistry:
    """Implements `Registry`; the last heartbeat of each worker, by the given clock."""

    def __init__(self, clock: Clock, *, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._heard: dict[str, tuple[Member, float]] = {}  # heard from longest ago first
        self._succession = Succession()

    async def announce(self, info: WorkerInfo) -> None:
        self._succession.admit(info.name, info.incarnation)
        self._hear(Member(info, WorkerStats(), 0.0))

    async def heartbeat(self, name: str, incarnation: str, stats: WorkerStats) -> bool:
        self._expire()
        member, _ = self._heard.get(name, (None, 0.0))
        if member is None or member.info.incarnation != incarnation:
            return False
        self._hear(Member(member.info, stats, 0.0))
        return True

    async def leave(self, name: str, incarnation: str) -> None:
        member, _ = self._heard.get(name, (None, 0.0))
        if member is not None and member.info.incarnation == incarnation:
            del self._heard[name]

    async def members(self) -> list[Member]:
        self._expire()
        now = self._clock.now()
        return in_order(
            msgspec.structs.replace(member, age_s=now - heard)
            for member, heard in self._heard.values()
        )

    async def close(self) -> None:
        self._heard.clear()

    def _hear(self, member: Member) -> None:
        self._heard.pop(member.info.name, None)
        self._heard[member.info.name] = (member, self._clock.now())

    def _expire(self) -> None:
        oldest_s = self._clock.now() - self._timeout_s
        while self._heard:
            name, (_, heard_s) = next(iter(self._heard.items()))
            if heard_s > oldest_s:
                return
            del self._heard[name]


def in_order(members: Iterable[Member]) -> list[Member]:
    """By pool and index: names of a pool differ in their number only, so a shorter one is first."""
    return sorted(
        members, key=lambda member: (member.info.pool, len(member.info.name), member.info.name)
    )
