"""The index equals the workers' own caches after any mixture of what can happen, once quiet; and so
do two routers' mirrors of it, which read whenever they come to it."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mserve.runtime.cluster.membership import BlockEvents, PrefixIndex
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.prefix_mirror import MirrorOptions, PrefixMirror
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_connection import RedisConnection
from mserve.runtime.errors import Gone

KEYS = [number * 0x1999_0000_0000_0000 | number for number in range(10)]
NUM_WORKERS = 3
# A few calls for all the buckets, several for the events of one batch.
HASTY = MirrorOptions(max_events=2, max_copied=16_384, max_lag_s=60.0)

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
    st.tuples(st.just("trim"), st.integers(0, 2)),
    st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(st.just("compare"), st.integers(0, 1)),
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
    def __init__(self, index: PrefixIndex, mirrors: Sequence[PrefixMirror] = ()) -> None:
        self.index = index
        self.mirrors = mirrors
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

    async def trim(self, entries: int) -> None:
        if isinstance(self.index, RedisPrefixIndex):
            client, prefix = self.index._connection._client, self.index._connection._prefix
            await client.xtrim(prefix + "index:events", maxlen=entries, approximate=False)

    async def read(self, number: int, calls: int) -> None:
        for mirror in self.mirrors[number : number + 1]:
            for _ in range(calls):
                await mirror.poll()

    async def compare(self, number: int) -> None:
        """A mirror that has read everything says what Redis says, whatever that is worth."""
        for mirror in self.mirrors[number : number + 1]:
            await read_everything(mirror)
            for chain in chains():
                before = mirror.lookups_here
                assert await mirror.lookup(chain) == await self.index.lookup(chain)
                assert mirror.lookups_here == before + 1

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


def chains() -> list[list[int]]:
    return [chain for begin in range(10) for chain in (KEYS[begin:], KEYS[begin::-1])]


async def read_everything(mirror: PrefixMirror) -> None:
    mirror._changed()
    while not mirror._current.is_set():
        await mirror.poll()


async def check(cluster: Cluster, script: list[tuple[str, ...]]) -> None:
    for action, *arguments in script:
        await getattr(cluster, action)(*arguments)
    await cluster.settle()
    for chain in chains():
        assert await cluster.index.lookup(chain) == cluster.expected(chain)
    for number, mirror in enumerate(cluster.mirrors):
        await cluster.compare(number)
        nothing_is_left_in(mirror, cluster)
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


def nothing_is_left_in(mirror: PrefixMirror, cluster: Cluster) -> None:
    assert mirror._copy is not None
    table = mirror._copy.table
    while table.sweep(256):
        pass
    held = [worker.blocks for worker in cluster.workers if worker.alive]
    assert table.num_blocks == len(set().union(*held))
    rows = [row for shard in table._shards for row in shard.values()]
    assert sum(row.bit_count() for row in rows) == sum(map(len, held))


async def open_mirror(url: str, cluster: str) -> PrefixMirror:
    """It reads when it is told to."""
    redis = await RedisPrefixIndex.open(url, cluster)
    return PrefixMirror(redis, await RedisConnection.open(url, cluster), HASTY)


SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
scripts = st.lists(actions, max_size=25)


@settings(max_examples=40, **SLOW)  # type: ignore[arg-type]  # values of two types
@given(script=scripts)
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


def run_with_mirrors(url: str, name: str, script: list[tuple[str, ...]]) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(url, name)
        mirrors = [await open_mirror(url, name) for _ in range(2)]
        try:
            await check(Cluster(index, mirrors), script)
        finally:
            await asyncio.gather(index.close(), *(mirror.close() for mirror in mirrors))

    asyncio.run(main())


@settings(max_examples=12, **SLOW)  # type: ignore[arg-type]  # values of two types
@given(script=scripts)
def test_mirrors_equal_them_too(
    redis_url: str, cluster_names: Iterator[str], script: list[tuple[str, ...]]
) -> None:
    run_with_mirrors(redis_url, next(cluster_names), script)


@pytest.mark.chaos
@settings(max_examples=120, **SLOW)  # type: ignore[arg-type]  # values of two types
@given(script=st.lists(actions, min_size=10, max_size=60))
def test_mirrors_equal_them_too_after_much_more(
    redis_url: str, cluster_names: Iterator[str], script: list[tuple[str, ...]]
) -> None:
    run_with_mirrors(redis_url, next(cluster_names), script)
