"""Keeps the cluster informed of one worker: membership, heartbeats, cached blocks.

Runs in the HTTP process. When the cluster's store is away it keeps trying, and publishes everything
anew once it is back; serving does not wait for it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mserve.runtime.cluster.membership import (
    HEARTBEAT_INTERVAL_S,
    BlockEvents,
    PrefixIndex,
    Registry,
    WorkerInfo,
    WorkerStats,
)
from mserve.runtime.errors import Gone, NoRoom, Unavailable
from mserve.runtime.worker import ipc

logger = logging.getLogger("mserve.worker")

MAX_BACKLOG = 10_000  # batches of block events kept while the store is away; then resync

MAX_GREETED = 64  # a larger cluster's connections are made when they are needed


class Announcer:
    """`snapshot` asks the engine for everything it caches, `stats` is its latest state (None: it is
    silent), `greet` makes it connect to other workers."""

    def __init__(
        self,
        info: WorkerInfo,
        registry: Registry,
        index: PrefixIndex,
        snapshot: Callable[[], Awaitable[ipc.Snapshot]],
        stats: Callable[[], WorkerStats | None],
        greet: Callable[[tuple[bytes, ...]], None],
    ) -> None:
        self._info = info
        self._registry = registry
        self._index = index
        self._snapshot = snapshot
        self._stats = stats
        self._greet = greet
        self._events: deque[BlockEvents] = deque(maxlen=MAX_BACKLOG)
        self._arrived = asyncio.Event()
        self._stats_changed = asyncio.Event()
        self._must_resync = True  # so that blocks of an earlier incarnation are masked at once

    def blocks_changed(self, events: BlockEvents) -> None:
        self._events.append(events)
        self._arrived.set()

    def stats_changed(self) -> None:
        """What `stats` says is news to routers: it goes out now, not with the next heartbeat."""
        self._stats_changed.set()

    async def join(self) -> None:
        """Raises what the registry raises: a worker that cannot be found must not start."""
        await self._registry.announce(self._info)
        members = await self._registry.members()
        others = [m.info for m in members if m.info.name != self._info.name]
        self._greet(tuple(info.transport_address for info in others[:MAX_GREETED]))

    async def run(self) -> None:
        """Until cancelled. Raises Gone when another incarnation has taken this worker's name."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._publish())
        except* Gone as replaced:
            raise replaced.exceptions[0] from None

    async def leave(self) -> None:
        """Best effort: a worker that cannot say goodbye is missed soon anyway."""
        try:
            await self._registry.leave(self._info.name, self._info.incarnation)
            await self._index.forget(self._info.name, self._info.incarnation)
        except Unavailable as error:
            logger.warning("could not leave the cluster: %s", error)

    async def _beat(self) -> None:
        while True:
            self._stats_changed.clear()
            stats = self._stats()
            try:
                if stats is None:  # a worker without an engine is none, until the engine is back
                    await self._registry.leave(self._info.name, self._info.incarnation)
                else:
                    await self._say_alive(stats)
            except Unavailable as error:
                logger.warning("no heartbeat: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_INTERVAL_S):  # not wait_for, see its tests
                    await self._stats_changed.wait()

    async def _say_alive(self, stats: WorkerStats) -> None:
        if not await self._registry.heartbeat(self._info.name, self._info.incarnation, stats):
            await self._registry.announce(self._info)
            await self._registry.heartbeat(self._info.name, self._info.incarnation, stats)
            self._must_resync = True
            self._arrived.set()

    async def _publish(self) -> None:
        while True:
            try:
                if self._must_resync:
                    await self._resync()
                while self._events:
                    await self._publish_next()
            except (Unavailable, NoRoom) as error:
                logger.warning("cached blocks are not published: %s", error)
                self._must_resync = True
                await asyncio.sleep(HEARTBEAT_INTERVAL_S)
                continue
            await self._arrived.wait()
            self._arrived.clear()

    async def _publish_next(self) -> None:
        events = self._events[0]
        accepted = await self._index.publish(self._info.name, self._info.incarnation, events)
        if accepted:
            if self._events and self._events[0] is events:
                self._events.popleft()
        else:
            await self._resync()

    async def _resync(self) -> None:
        snapshot = await self._snapshot()
        await self._index.resync(
            self._info.name, self._info.incarnation, snapshot.sequence, snapshot.blocks
        )
        while self._events and self._events[0].sequence <= snapshot.sequence:
            self._events.popleft()
        self._must_resync = False
