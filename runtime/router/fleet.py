"""The router's memory of who is in the cluster: the registry's members, polled in the background.

Owns the latest `Snapshot` and says when a worker is gone. A worker that broke a connection is left
out until it is heard from again. Knows no plans and no load.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from mserve.compiler.plan import WorkerName
from mserve.runtime.clock import Clock
from mserve.runtime.cluster.membership import Member, Registry, WorkerInfo
from mserve.runtime.cost import CostProfile

log = logging.getLogger(__name__)

OnLost = Callable[[WorkerInfo], None]

DESERTED_S = 15.0  # longer than a worker takes to start again


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Live workers that take plans, by name and, in pool order, by pool."""

    members: Mapping[WorkerName, Member] = field(default_factory=dict)
    pools: Mapping[str, tuple[WorkerName, ...]] = field(default_factory=dict)
    costs: Mapping[WorkerName, CostProfile] = field(default_factory=dict)  # as they are now

    @classmethod
    def of(cls, members: Sequence[Member]) -> "Snapshot":
        pools: dict[str, list[WorkerName]] = {}
        for member in members:
            pools.setdefault(member.info.pool, []).append(member.info.name)
        return cls(
            {member.info.name: member for member in members},
            {pool: tuple(names) for pool, names in pools.items()},
            {member.info.name: _cost(member) for member in members},
        )

    @property
    def max_model_len(self) -> int | None:
        """Tokens of prompt and answer that every worker can hold; None without a worker."""
        return min((m.info.max_model_len for m in self.members.values()), default=None)

    @property
    def block_tokens(self) -> int | None:
        return next((m.info.block_tokens for m in self.members.values()), None)


class Fleet:
    """Polls the registry, which never fails: while out of reach it goes on with what it knew.

    `on_gone` is told of every incarnation that has dropped out of the registry.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        poll_s: float = 0.25,
        on_gone: Callable[[WorkerInfo], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._poll_s = poll_s
        self._on_gone = on_gone
        self._alive: dict[str, WorkerInfo] = {}  # by incarnation
        self._lost_s: dict[str, float] = {}  # incarnation -> when its connection broke
        self._watchers: dict[str, dict[int, tuple[WorkerInfo, OnLost]]] = {}  # by incarnation
        self._num_watches = 0
        self._tick = asyncio.Event()
        self._began_s = clock.now()
        self._peopled_s: dict[str, float] = {}  # pool -> when the registry last had a worker of it
        self.members: Sequence[Member] = ()  # all that the registry knows, draining and lost too
        self.snapshot = Snapshot()

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """Keeps `snapshot` fresh while the body runs; it is filled when the body begins."""
        await self.refresh()
        task = asyncio.create_task(self._poll(), name="fleet-poll")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def refresh(self) -> None:
        """Reads the registry once."""
        members = await self._registry.members()
        alive = {member.info.incarnation: member.info for member in members}
        gone = [info for incarnation, info in self._alive.items() if incarnation not in alive]
        self._alive, self.members = alive, members
        self._peopled_s |= dict.fromkeys((m.info.pool for m in members), self._clock.now())
        self._apply(members)
        if self._on_gone is not None:
            for info in gone:
                await self._on_gone(info)

    async def changed(self) -> None:
        """Returns when the snapshot has been read anew."""
        await self._tick.wait()

    def is_deserted(self, pool: str) -> bool:
        """The registry has had no worker of this pool for so long that waiting is in vain."""
        since_s = self._peopled_s.get(pool, self._began_s)
        return self._clock.now() - since_s > DESERTED_S

    def report_lost(self, info: WorkerInfo) -> None:
        """A connection to this incarnation broke, or it says that it takes no plans: none goes there
        until it is heard from."""
        self._lost_s[info.incarnation] = self._clock.now()
        kept = [m for m in self.snapshot.members.values() if m.info.incarnation != info.incarnation]
        self._show(Snapshot.of(kept))

    @contextmanager
    def watch(self, workers: Sequence[WorkerInfo], on_lost: OnLost) -> Iterator[None]:
        """Calls `on_lost` if one of `workers` drops out of the registry while the body runs."""
        self._num_watches += 1
        watch = self._num_watches
        for info in workers:
            self._watchers.setdefault(info.incarnation, {})[watch] = (info, on_lost)
        try:
            yield
        finally:
            for info in workers:
                self._watchers[info.incarnation].pop(watch)
                if not self._watchers[info.incarnation]:
                    del self._watchers[info.incarnation]

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(self._poll_s)
            await self.refresh()

    def _apply(self, members: list[Member]) -> None:
        now = self._clock.now()
        self._lost_s = {key: at for key, at in self._lost_s.items() if key in self._alive}
        self._show(Snapshot.of([m for m in _newest(members) if self._takes_plans(m, now)]))
        self._tell_lost()
        self._tick.set()
        self._tick = asyncio.Event()

    def _show(self, snapshot: Snapshot) -> None:
        for pool in self.snapshot.pools.keys() - snapshot.pools.keys():
            log.warning("pool '%s' has no live worker any more", pool)
        for pool in snapshot.pools.keys() - self.snapshot.pools.keys():
            log.info("pool '%s' has a live worker", pool)
        self.snapshot = snapshot

    def _takes_plans(self, member: Member, now: float) -> bool:
        lost_s = self._lost_s.get(member.info.incarnation)
        heard_since = lost_s is None or now - member.age_s > lost_s
        return heard_since and not member.stats.draining

    def _tell_lost(self) -> None:
        for incarnation in [key for key in self._watchers if key not in self._alive]:
            for info, on_lost in list(self._watchers[incarnation].values()):
                on_lost(info)


def _cost(member: Member) -> CostProfile:
    """What the worker measured at its start, corrected by what it measures since."""
    return member.info.cost.scaled(member.stats.prefill_drift, member.stats.decode_drift)


def _newest(members: list[Member]) -> list[Member]:
    """One member per name: while a worker restarts, the incarnation heard from last."""
    newest: dict[WorkerName, Member] = {}
    for member in members:
        known = newest.get(member.info.name)
        if known is None or member.age_s < known.age_s:
            newest[member.info.name] = member
    return list(newest.values())
