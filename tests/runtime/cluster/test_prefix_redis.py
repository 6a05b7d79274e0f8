"""What only the prefix index in Redis can suffer: sweeps, restarts, an unreachable server."""

import asyncio
import random
import signal
import time
from os import kill
from typing import Any

import pytest

from mserve.runtime.cluster.membership import BlockEvents
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_server import RedisServer
from mserve.runtime.errors import Unavailable


def random_keys(count: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) for _ in range(count)]


def stored(sequence: int, keys: list[int]) -> BlockEvents:
    return BlockEvents(sequence, (), tuple(keys))


async def keys_of(index: RedisPrefixIndex, pattern: str) -> list[bytes]:
    client = index._connection._client
    return [key async for key in client.scan_iter(index._connection._prefix + pattern, count=1000)]


async def no_more_sweeps(index: RedisPrefixIndex) -> None:
    if index._sweep is not None:
        await index._sweep
    index._start_sweep = lambda: None  # type: ignore[method-assign]


def test_two_routers_share_it_and_forgetting_leaves_nothing(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        one = await RedisPrefixIndex.open(redis_url, cluster)
        other = await RedisPrefixIndex.open(redis_url, cluster)
        keys = random_keys(2000)
        await one.publish("w-0", "a", stored(1, keys))
        await one.publish("w-1", "a", stored(1, keys[:10]))
        assert await other.lookup(keys) == {"w-0": 2000, "w-1": 10}
        await other.forget("w-0")
        assert await one.lookup(keys) == {"w-1": 10}
        await one.swept()
        assert len(await keys_of(one, "index:b:*")) == 10
        await one.forget("w-1")
        await one.swept()
        assert await keys_of(one, "index:b:*") == []
        await one.close()
        await other.close()

    asyncio.run(main())


def test_lookups_at_once_get_their_own_answers(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(redis_url, cluster)
        keys = random_keys(3000)
        await index.resync("w-0", "a", 1, keys)
        lengths = [*range(0, 3000, 17), *range(1, 60)]
        answers = await asyncio.gather(*[index.lookup(keys[:length]) for length in lengths])
        assert answers == [{"w-0": length} if length else {} for length in lengths]
        await index.close()

    asyncio.run(main())


def test_a_cancelled_lookup_spares_the_others(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(redis_url, cluster)
        await index.publish("w-0", "a", stored(1, [1]))
        lookups = [asyncio.create_task(index.lookup([1])) for _ in range(30)]
        await asyncio.sleep(0)
        for lookup in lookups[::3]:
            lookup.cancel()
        answers = await asyncio.gather(*lookups, return_exceptions=True)
        others = [answer for place, answer in enumerate(answers) if place % 3]
        assert others == [{"w-0": 1}] * 20
        last = asyncio.create_task(index.lookup([1]))
        await asyncio.sleep(0)
        await index.close()
        await asyncio.wait_for(asyncio.wait([last]), 1)  # answered or cancelled, not left hanging

    asyncio.run(main())


def test_a_slot_is_not_reused_before_its_sweep(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(redis_url, cluster)
        await no_more_sweeps(index)
        await index.publish("w-0", "a", stored(1, [1, 2, 3]))
        await index.forget("w-0")
        await index.publish("w-1", "a", stored(1, [1]))
        assert await index.lookup([1, 2, 3]) == {"w-1": 1}  # and not w-0's three
        await index.swept()
        await index.publish("w-2", "a", stored(1, [2]))
        assert await index.lookup([1, 2, 3]) == {"w-1": 1}
        assert await index.lookup([2, 3]) == {"w-2": 1}
        slots = await index._connection._client.hkeys(index._connection._prefix + "index:slots")
        assert sorted(slots) == [b"\x00", b"\x01"]  # w-2 has the slot that w-0 had
        await index.close()

    asyncio.run(main())


def test_every_full_slot_may_wait_for_its_sweep(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(redis_url, cluster)
        await no_more_sweeps(index)
        for number in range(256):
            await index.publish(f"w-{number}", "a", stored(1, [number]))
            await index.forget(f"w-{number}")
        assert not await index.publish("late", "a", stored(1, [1]))
        await index.resync("late", "a", 1, [1])
        assert await index.lookup([1]) == {"late": 1}
        await index.close()

    asyncio.run(main())


def test_a_restarted_redis_is_filled_again_by_resync() -> None:
    async def main() -> None:
        server = await RedisServer.start()
        index = await RedisPrefixIndex.open(server.url, "c")
        try:
            assert await index.publish("w-0", "a", stored(1, [1, 2]))
            await server.stop()
            assert await index.lookup([1]) == {}
            assert not await index.publish("w-0", "a", stored(2, [3]))
            with pytest.raises(Unavailable):
                await index.resync("w-0", "a", 2, [1, 2, 3])
            assert (index.lookups_failed, index.publishes_failed) == (1, 1)
            server = await RedisServer.start(server.port)
            await asyncio.sleep(0.3)  # the pause after a failure
            assert not await index.publish("w-0", "a", stored(3, [4]))
            await index.resync("w-0", "a", 3, [1, 2, 3, 4])
            assert await index.lookup([1, 2, 3, 4]) == {"w-0": 4}
            assert await index.publish("w-0", "a", stored(4, [5]))
        finally:
            await index.close()
            await server.stop()

    asyncio.run(main())


def test_an_idle_connection_survives_a_quick_restart() -> None:
    async def main() -> None:
        server = await RedisServer.start()
        index = await RedisPrefixIndex.open(server.url, "c")
        try:
            await asyncio.gather(*[index.lookup([1]) for _ in range(20)])
            await server.stop()
            server = await RedisServer.start(server.port)
            await asyncio.gather(*[index.lookup([1]) for _ in range(20)])
            assert index.lookups_failed == 0
        finally:
            await index.close()
            await server.stop()

    asyncio.run(main())


def test_a_frozen_redis_costs_one_time_out_and_then_nothing() -> None:
    async def main() -> None:
        server = await RedisServer.start()
        index = await RedisPrefixIndex.open(server.url, "c")
        try:
            await index.publish("w-0", "a", stored(1, [1]))
            kill(server.pid, signal.SIGSTOP)
            assert await index.lookup([1]) == {}
            began = time.monotonic()
            for _ in range(100):
                assert await index.lookup([1]) == {}
            assert time.monotonic() - began < 0.4  # less than one time-out
            kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(0.3)
            assert await index.lookup([1]) == {"w-0": 1}
        finally:
            await index.close()
            await server.stop()

    asyncio.run(main())


def test_a_resync_that_another_overtakes_says_so(
    redis_url: str, cluster: str, hold_fill: Any
) -> None:
    async def main() -> None:
        slow = await RedisPrefixIndex.open(redis_url, cluster)
        index = await RedisPrefixIndex.open(redis_url, cluster)
        fill = hold_fill(slow)
        keys = random_keys(3000)
        first = asyncio.create_task(slow.resync("w-0", "a", 1, keys))
        await fill.has_begun.wait()
        assert await index.lookup(keys[:1]) == {}  # masked until whole
        await index.resync("w-0", "a", 2, [1])
        fill.go_on.set()
        with pytest.raises(Unavailable):
            await first
        assert await index.lookup([1]) == {"w-0": 1}
        await index.swept()
        assert len(await keys_of(index, "index:b:*")) == 1
        await index.close()
        await slow.close()

    asyncio.run(main())


def test_the_stream_of_events_is_capped(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(redis_url, cluster)
        client, name = index._connection._client, index._connection._prefix + "index:events"
        keys = tuple(random_keys(40_000))
        for sequence in range(1, 31):
            await index.publish("w-0", "a", BlockEvents(sequence, evicted=keys))
        entries: Any = await client.xrevrange(name, count=8200)
        assert len(entries) >= 8192
        assert max(len(fields[b"value"]) for _, fields in entries) == 1024
        assert (await client.memory_usage(name, samples=0) or 0) < 10 << 20
        await index.publish("w-0", "a", BlockEvents(31, (1,), (2,)))
        entries = await client.xrevrange(name, count=2)
        assert [fields for _, fields in entries] == [
            {b"op": b"stored", b"slot": b"\0", b"value": (2).to_bytes(8, "big")},
            {b"op": b"evicted", b"slot": b"\0", b"value": (1).to_bytes(8, "big")},
        ]
        await index.close()

    asyncio.run(main())


def test_a_block_takes_under_100_bytes(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        index = await RedisPrefixIndex.open(redis_url, cluster)
        client = index._connection._client
        before = (await client.info("memory"))["used_memory"]
        keys = random_keys(200_000)
        await index.resync("w-0", "a", 1, keys)
        await index.resync("w-1", "a", 1, keys[:100_000])
        after = (await client.info("memory"))["used_memory"]
        assert (after - before) / len(keys) < 100
        await index.close()

    asyncio.run(main())
