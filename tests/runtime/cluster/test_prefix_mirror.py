"""What only a mirror can suffer: lags, gaps, snapshots amid changes, too many blocks."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mserve.compiler.plan import Decision
from mserve.runtime.blocks import block_keys
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import BlockEvents, KvLayout, WorkerInfo
from mserve.runtime.cluster.prefix_mirror import MirrorOptions, PrefixMirror
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_connection import RedisConnection, Script
from mserve.runtime.cluster.redis_scripts import BEGIN, FOLLOW
from mserve.runtime.cluster.redis_server import RedisServer
from mserve.runtime.cluster.registry import MemoryRegistry
from mserve.runtime.cost import CostProfile
from mserve.runtime.messages import Render, Sampling, pack_tokens
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.history import History
from mserve.runtime.router.placement import Placement, Query
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.reservations import Reservations

PATIENT = MirrorOptions(poll_s=0.001, max_lag_s=60.0)
Main = Callable[[RedisPrefixIndex, PrefixMirror], Coroutine[Any, Any, None]]


def stored(sequence: int, keys: list[int]) -> BlockEvents:
    return BlockEvents(sequence, (), tuple(keys))


def random_keys(count: int) -> list[int]:
    source = random.Random(0)
    return [source.getrandbits(64) for _ in range(count)]


def run(url: str, cluster: str, main: Main, options: MirrorOptions = PATIENT) -> None:
    """`main` gets the index in Redis, as a worker has it, and a mirror."""

    async def body() -> None:
        index = await RedisPrefixIndex.open(url, cluster)
        mirror = await PrefixMirror.open(url, cluster, options)
        try:
            await main(index, mirror)
        finally:
            await mirror.close()
            await index.close()

    asyncio.run(body())


async def here(mirror: PrefixMirror, keys: list[int]) -> dict[str, int]:
    """The copy's answer, once it has read everything."""
    async with asyncio.timeout(10):
        await mirror.caught_up()
    before = mirror.lookups_here
    found = await mirror.lookup(keys)
    assert mirror.lookups_here == before + 1
    return found


def calls_of(mirror: PrefixMirror, script: Script) -> list[Any]:
    """The replies of a mirror's calls of `script`, from now on."""
    replies = []
    run = mirror._connection.run

    async def run_and_keep(called: Script, *arguments: Any) -> Any:
        reply = await run(called, *arguments)
        if called is script:
            replies.append(reply)
        return reply

    mirror._connection.run = run_and_keep  # type: ignore[method-assign, assignment]
    return replies


def test_redis_answers_until_the_copy_is_whole_and_when_it_lags(
    redis_url: str, cluster: str
) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        await index.publish("w-0", "a", stored(1, [1]))
        assert await mirror.lookup([1]) == {"w-0": 1}
        assert (mirror.lookups_here, mirror.lookups_by_redis) == (0, 1)
        assert await here(mirror, [1]) == {"w-0": 1}
        assert mirror._following is not None
        mirror._following.cancel()
        await index.publish("w-0", "a", stored(2, [2]))
        await asyncio.sleep(0.06)
        assert await mirror.lookup([1, 2]) == {"w-0": 2}
        assert (mirror.lookups_here, mirror.lookups_by_redis) == (1, 2)

    run(redis_url, cluster, main, MirrorOptions(poll_s=0.001))


def test_what_a_router_forgets_it_does_not_find(redis_url: str, cluster: str) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        for number in range(20):
            await index.resync("w-0", str(number), 1, [1])
            assert await here(mirror, [1]) == {"w-0": 1}
            await mirror.forget("w-0")
            assert await mirror.lookup([1]) == {}

    run(redis_url, cluster, main)


def test_a_copy_begun_amid_a_resync_is_right(redis_url: str, cluster: str, hold_fill: Any) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        fill = hold_fill(index)
        keys = random_keys(3000)
        resync = asyncio.create_task(index.resync("w-0", "a", 7, keys))
        await fill.has_begun.wait()
        late = await PrefixMirror.open(redis_url, cluster, PATIENT)
        assert await here(mirror, keys) == await here(late, keys) == {}  # masked until whole
        fill.go_on.set()
        await resync
        assert await here(mirror, keys) == await here(late, keys) == {"w-0": 3000}
        await late.close()

    run(redis_url, cluster, main)


def test_a_slot_left_before_the_copy_began_means_nothing(redis_url: str, cluster: str) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        if index._sweep is not None:
            await index._sweep
        index._start_sweep = lambda: None  # type: ignore[method-assign]
        await index.publish("w-0", "a", stored(1, [1, 2, 3]))
        await index.publish("w-1", "a", stored(1, [1]))
        await index.forget("w-0")
        late = await PrefixMirror.open(redis_url, cluster, PATIENT)
        assert await here(late, [1, 2, 3]) == await here(mirror, [1, 2, 3]) == {"w-1": 1}
        await index.swept()
        await index.publish("w-2", "a", stored(1, [2]))  # in w-0's slot
        assert await here(late, [2, 3]) == await here(mirror, [2, 3]) == {"w-2": 1}
        await late.close()

    run(redis_url, cluster, main)


@pytest.mark.parametrize("loss", ["trimmed", "emptied"])
def test_a_loss_makes_it_copy_again(redis_url: str, cluster: str, loss: str) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        await index.publish("w-0", "a", stored(1, [1, 2]))
        await index.publish("w-1", "a", stored(1, [1]))
        assert await here(mirror, [1, 2]) == {"w-0": 2, "w-1": 1}
        begun = calls_of(mirror, BEGIN)
        client, prefix = index._connection._client, index._connection._prefix
        pipeline = client.pipeline(transaction=True)
        if loss == "trimmed":
            pipeline.hset(prefix + "index:slots", b"\1", b"other")  # what the lost event said
            pipeline.xtrim(prefix + "index:events", maxlen=0, approximate=False)
        else:
            pipeline.delete(*[key async for key in client.scan_iter(prefix + "*")])
        await pipeline.execute()
        expected = {"w-0": 2, "other": 1} if loss == "trimmed" else {}
        assert await here(mirror, [1, 2]) == expected
        assert len(begun) == 1

    run(redis_url, cluster, main)


def test_a_restarted_redis_is_copied_again() -> None:
    async def main() -> None:
        server = await RedisServer.start()
        mirror = await PrefixMirror.open(server.url, "c", PATIENT)
        try:
            await mirror.publish("w-0", "a", stored(1, [1, 2]))
            assert await here(mirror, [1, 2]) == {"w-0": 2}
            await server.stop()
            server = await RedisServer.start(server.port)
            await asyncio.sleep(0.3)  # the pause after a failure
            await mirror.resync("w-0", "a", 2, [1])
            assert await here(mirror, [1, 2]) == {"w-0": 1}
        finally:
            await mirror.close()
            await server.stop()

    asyncio.run(main())


def test_one_call_copies_little_and_many_copy_all(redis_url: str, cluster: str) -> None:
    keys = random_keys(2000)
    options = MirrorOptions(poll_s=0.001, max_lag_s=60.0, max_events=4, max_copied=2500)

    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        await index.resync("w-0", "a", 1, keys)
        await index.resync("w-1", "a", 1, keys[:1000])
        connection = await RedisConnection.open(redis_url, cluster)
        late = PrefixMirror(index, connection, options)
        replies = calls_of(late, FOLLOW)
        while await late.poll():
            pass
        copied = [sum(len(row) // 2 for _, row in buckets) for _, _, buckets in replies]
        assert sum(copied) == 2000
        assert len(replies) > 65536 / 2500
        assert await late.lookup(keys) == {"w-0": 2000, "w-1": 1000}
        assert max(map(len, (events for events, _, _ in replies))) <= 4
        begin = len(replies)
        await index.resync("w-1", "a", 2, keys)
        while await late.poll():
            pass
        assert [len(events) for events, _, _ in replies[begin:]] == [4, 4, 4, 4, 3]
        assert await late.lookup(keys) == {"w-0": 2000, "w-1": 2000}
        await connection.close()

    run(redis_url, cluster, main, options)


def test_too_many_blocks_are_left_to_redis(
    redis_url: str, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        keys = random_keys(1001)
        await index.publish("w-0", "a", stored(1, keys[:1000]))
        assert await here(mirror, keys) == {"w-0": 1000}
        await index.publish("w-0", "a", stored(2, keys[1000:]))
        assert mirror._following is not None
        await asyncio.wait_for(mirror._following, 5)
        before = mirror.lookups_here
        assert await mirror.lookup(keys) == {"w-0": 1001}
        assert mirror.lookups_here == before
        assert mirror._copy is None

    run(redis_url, cluster, main, MirrorOptions(poll_s=0.001, max_lag_s=60.0, max_blocks=1000))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_while_nobody_asks_it_hardly_polls(redis_url: str, cluster: str) -> None:
    options = MirrorOptions(poll_s=0.001, idle_poll_s=60.0, idle_after_s=0.0)

    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        await here(mirror, [1])
        replies = calls_of(mirror, FOLLOW)
        await asyncio.sleep(0.06)
        assert len(replies) <= 1
        assert await mirror.lookup([1]) == {}  # by Redis, and polls begin again
        before = mirror.lookups_here
        async with asyncio.timeout(5):
            while mirror.lookups_here == before:
                await mirror.lookup([1])
        assert replies

    run(redis_url, cluster, main, options)


def test_a_copy_that_breaks_is_reported_and_redis_answers(
    redis_url: str, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        await here(mirror, [])
        client, prefix = index._connection._client, index._connection._prefix
        await client.xadd(prefix + "index:events", {"op": "new", "slot": "\0", "value": ""})
        assert mirror._following is not None
        await asyncio.wait([mirror._following], timeout=5)
        await index.publish("w-0", "a", stored(1, [1]))
        await asyncio.sleep(0.06)
        assert await mirror.lookup([1]) == {"w-0": 1}

    run(redis_url, cluster, main, MirrorOptions(poll_s=0.001))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


class Watcher:
    """A strategy that only looks: what it saw cached is kept."""

    name = "watcher"
    observes = frozenset({"cached"})

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def decide(self, view: Any) -> Decision | None:
        self.seen = {name: view.cached(name) for name in view.workers("workers")}
        return None


def worker_info(name: str) -> WorkerInfo:
    cost = CostProfile(0.001, 0.0001, 0.0, 0.01, 0.0, 0.0, 1e9, 1000)
    layout = KvLayout("tiny", "w", "float32", 4, 2, 64)
    return WorkerInfo(name, "workers", "a", "", b"", layout, 16, 64, 16, 4096, cost)


def test_placement_asks_the_copy(redis_url: str, cluster: str) -> None:
    async def main(index: RedisPrefixIndex, mirror: PrefixMirror) -> None:
        clock = LoopClock()
        watcher: Any = Watcher()
        registry = MemoryRegistry(clock)
        for name in ("workers-0", "workers-1"):
            await registry.announce(worker_info(name))
        fleet = Fleet(registry, clock)
        await fleet.refresh()
        tokens = pack_tokens(list(range(100)))
        placement = Placement(watcher, fleet, mirror, Reservations(clock), History(clock))
        request = GenerationRequest("", tokens, Sampling(max_tokens=10), Render())
        await index.publish("workers-1", "a", stored(1, list(block_keys(tokens, 16)[:3])))
        await mirror.caught_up()
        await placement.place(Query(request, tokens, 10))
        assert watcher.seen == {"workers-0": 0, "workers-1": 48}
        assert (mirror.lookups_here, mirror.lookups_by_redis) == (1, 0)

    run(redis_url, cluster, main)
