"""The index equals the workers' own caches after any mixture of what can happen, once quiet."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mserve.runtime.cluster.membership import BlockEvents, PrefixIndex
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.errors import Gone

KEYS = [number << 56 | number for number in range(10)]
NUM_WORKERS = 3

keys = st.frozensets(st.sampled_from(KEYS), max_size=6)
worker = st.integers(0, NUM_WORKERS - 1)
fates = st.sampled_from(["arrives", "lost", "twice", "late"])
actions = st.one_of(
    st.tuples(st.just("change"), worker, keys, keys, fates),
    st.tuples(st.just("change"), worker, keys, keys, st.just("arrives")),
    st.tuples(st.just("restart"), worker),
    st.tuples(st.just("die"), worker),
    st.tuples(st.just("suspect"), worker),
    st.tuples(st.just("resync"), worker),
    st.tuples(st.just("deliver"), st.integers(0, 5)),
    st.tuples(st.just("flush")),
)


@dataclass
class Worker:
    """The truth: what a worker caches, and how it tells the index."""

    name: str
    incarnation: int = 0
    sequence: int = 0
    blocks: set[int] = field(default_factory=set)
    alive: bool = False
    remembered: bool = True  # the index has not lost everything since it started

    def batch(self, evicted: frozenset[int], stored: frozenset[int]) -> BlockEvents:
        self.sequence += 1
        self.blocks = (self.blocks - evicted) | stored
        return BlockEvents(self.sequence, tuple(evicted), tuple(stored))


class Cluster:
    def __init__(self, index: PrefixIndex) -> None:
        self.index = index
        self.workers = [Worker(f"w-{number}") for number in range(NUM_WORKERS)]
        self.late: list[tuple[str, str, BlockEvents]] = []

    async def change(
        self, number: int, evicted: frozenset[int], stored: frozenset[int], fate: str
    ) -> None:
        if not self.workers[number].alive:
            await self.restart(number)
        worker = self.workers[number]
        batch = worker.batch(evicted, stored)
        if fate == "late":
            self.late.append((worker.name, str(worker.incarnation), batch))
        for _ in range({"arrives": 1, "twice": 2}.get(fate, 0)):
            await self.publish(worker, batch)

    async def publish(self, worker: Worker, batch: BlockEvents) -> None:
        if not await self.index.publish(worker.name, str(worker.incarnation), batch):
            await self.resync(self.workers.index(worker))

    async def resync(self, number: int) -> None:
        worker = self.workers[number]
        if worker.alive:
            await self.index.resync(
                worker.name, str(worker.incarnation), worker.sequence, sorted(worker.blocks)
            )

    async def restart(self, number: int) -> None:
        old = self.workers[number]
        self.workers[number] = Worker(old.name, old.incarnation + 1, alive=True)
        await self.resync(number)
        if old.alive and old.remembered:
            await self.thaw(old)

    async def thaw(self, old: Worker) -> None:
        """An incarnation that was only frozen finds that it has a successor."""
        batch = old.batch(frozenset(), frozenset(KEYS))
        assert not await self.index.publish(old.name, str(old.incarnation), batch)
        try:
            await self.index.resync(old.name, str(old.incarnation), old.sequence, KEYS)
        except Gone:
            return
        raise AssertionError("A replaced incarnation took its name back.")

    async def die(self, number: int) -> None:
        self.workers[number].alive = False
        await self.index.forget(self.workers[number].name)

    async def suspect(self, number: int) -> None:
        """Forgotten by a router although it is alive."""
        await self.index.forget(self.workers[number].name)

    async def deliver(self, place: int) -> None:
        if place < len(self.late):
            await self.index.publish(*self.late.pop(place))

    async def flush(self) -> None:
        """Redis restarts; with it go the connections and what was under way on them."""
        if isinstance(self.index, RedisPrefixIndex):
            client, prefix = self.index._connection._client, self.index._connection._prefix
            found = [key async for key in client.scan_iter(prefix + "*")]
            if found:
                await client.delete(*found)
            self.late.clear()
            for worker in self.workers:
                worker.remembered = False

    async def settle(self) -> None:
        """What happens within a second: late batches arrive, the dead are found to be dead, and
        each of the living publishes."""
        while self.late:
            await self.deliver(0)
        for worker in self.workers:
            if worker.alive:
                await self.publish(worker, worker.batch(frozenset(), frozenset()))
            else:
                await self.index.forget(worker.name)

    def expected(self, chain: list[int]) -> dict[str, int]:
        counts = {}
        for worker in self.workers:
            missing = [place for place, key in enumerate(chain) if key not in worker.blocks]
            counts[worker.name] = min(missing, default=len(chain)) if worker.alive else 0
        return {name: count for name, count in counts.items() if count}


async def check(cluster: Cluster, script: list[tuple[str, ...]]) -> None:
    for action, *arguments in script:
        await getattr(cluster, action)(*arguments)
    await cluster.settle()
    for begin in range(len(KEYS)):
        for chain in (KEYS[begin:], KEYS[begin::-1]):
            assert await cluster.index.lookup(chain) == cluster.expected(chain)
    if isinstance(cluster.index, RedisPrefixIndex):
        await nothing_is_left(cluster, cluster.index)


async def nothing_is_left(cluster: Cluster, index: RedisPrefixIndex) -> None:
    """Redis holds exactly the bytes of the living, and counts them right."""
    await index.swept()
    client, prefix = index._connection._client, index._connection._prefix
    bytes_held = 0
    async for bucket in client.scan_iter(prefix + "index:b:*", count=1000):
        bytes_held += sum(map(len, await client.hvals(bucket)))
    alive = [worker for worker in cluster.workers if worker.alive]
    assert bytes_held == sum(len(worker.blocks) for worker in alive)
    for worker in alive:
        blocks = await client.hget(prefix + f"index:holder:{worker.name}", "blocks")
        assert int(blocks or -1) == len(worker.blocks)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(actions, max_size=25))
def test_equals_the_workers_own_sets_once_quiet(
    backend: str | None, cluster_names: Iterator[str], script: list[tuple[str, ...]]
) -> None:
    async def main() -> None:
        index: PrefixIndex = MemoryPrefixIndex()
        if backend:
            index = await RedisPrefixIndex.open(backend, next(cluster_names))
        try:
            await check(Cluster(index), script)
        finally:
            await index.close()

    asyncio.run(main())
