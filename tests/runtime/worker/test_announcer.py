"""What a worker's cluster hears of it, and how soon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import KvLayout, WorkerInfo, WorkerStats
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.registry import MemoryRegistry
from mserve.runtime.cost import CostProfile
from mserve.runtime.worker import ipc
from mserve.runtime.worker.announcer import Announcer

INFO = WorkerInfo(
    name="w-0",
    pool="w",
    incarnation="a",
    url="http://127.0.0.1:1",
    transport_address=b"w",
    layout=KvLayout("tiny", "0" * 8, "float32", 2, 2, 32),
    page_size=16,
    num_pages=64,
    block_tokens=16,
    max_model_len=2048,
    cost=CostProfile(1e-3, 1e-5, 1e-9, 1e-3, 1e-4, 1e-3, 1e9, 512),
)
BLOCKS = (11, 12, 13)


class World:
    """A worker whose state a test changes, and what the cluster knows of it."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry(LoopClock())
        self.index = MemoryPrefixIndex()
        self.stats: WorkerStats | None = WorkerStats(kv_total_tokens=1024)
        self.announcer = Announcer(
            INFO, self.registry, self.index, self._snapshot, lambda: self.stats, lambda peers: None
        )

    async def _snapshot(self) -> ipc.Snapshot:
        return ipc.Snapshot(1, 7, BLOCKS)

    def change(self, stats: WorkerStats | None) -> None:
        self.stats = stats
        self.announcer.stats_changed()

    async def heard(self) -> list[WorkerStats]:
        return [member.stats for member in await self.registry.members()]

    async def until(self, stats: list[WorkerStats]) -> None:
        """Sooner than any heartbeat would bring it."""
        async with asyncio.timeout(0.5):
            while await self.heard() != stats:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)


def run(scenario: Callable[[World], Awaitable[Any]]) -> None:
    async def main() -> None:
        world = World()
        await world.announcer.join()
        running = asyncio.create_task(world.announcer.run())
        try:
            await scenario(world)
        finally:
            running.cancel()

    asyncio.run(main())


def test_news_does_not_wait_for_the_next_heartbeat() -> None:
    async def scenario(world: World) -> None:
        await world.until([WorkerStats(kv_total_tokens=1024)])
        world.change(WorkerStats(draining=True))
        await world.until([WorkerStats(draining=True)])

    run(scenario)


def test_a_silent_engine_takes_its_worker_out_and_comes_back_with_its_blocks() -> None:
    async def scenario(world: World) -> None:
        stats = WorkerStats(running=2)
        world.change(stats)
        await world.until([stats])
        world.change(None)
        await world.until([])
        await world.index.forget("w-0", "a")  # as routers do then
        assert await world.index.lookup(BLOCKS) == {}
        world.change(stats)
        await world.until([stats])  # with its load at once: not as idle as one that has just begun
        async with asyncio.timeout(0.5):
            while await world.index.lookup(BLOCKS) != {"w-0": 3}:  # noqa: ASYNC110 - nor here
                await asyncio.sleep(0.005)

    run(scenario)


@pytest.mark.parametrize("num_turns", range(5))
def test_it_ends_when_news_comes_at_the_moment_of_its_end(num_turns: int) -> None:
    """`asyncio.wait_for` of Python 3.11 forgets a cancel that meets the end of what it waits for."""

    async def main() -> None:
        world = World()
        await world.announcer.join()
        running = asyncio.create_task(world.announcer.run())
        await asyncio.sleep(0.01)
        world.announcer.stats_changed()
        for _ in range(num_turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=0.2)
        running.cancel()
        assert done, "it goes on, and the process that waits for it never ends"

    asyncio.run(main())
