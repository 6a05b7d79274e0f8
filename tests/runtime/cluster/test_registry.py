"""The contract of Registry, over both implementations, and what only Redis can suffer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import KvLayout, Registry, WorkerInfo, WorkerStats
from mserve.runtime.cluster.redis_server import RedisServer
from mserve.runtime.cluster.registry import MemoryRegistry
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError, Gone, Unavailable

TIMEOUT_S = 0.5

Scenario = Callable[[Callable[[Registry], Awaitable[None]]], None]


@pytest.fixture
def run(backend: str | None, cluster: str) -> Scenario:
    """Runs a scenario against a fresh, empty registry and closes it."""

    async def opened() -> Registry:
        if backend is None:
            return MemoryRegistry(LoopClock(), timeout_s=TIMEOUT_S)
        return await RedisRegistry.open(backend, cluster, LoopClock(), timeout_s=TIMEOUT_S)

    async def main(scenario: Callable[[Registry], Awaitable[None]]) -> None:
        registry = await opened()
        try:
            await scenario(registry)
        finally:
            await registry.close()

    return lambda scenario: asyncio.run(main(scenario))


def worker(name: str, incarnation: str = "a") -> WorkerInfo:
    return WorkerInfo(
        name=name,
        pool=name.rpartition("-")[0],
        incarnation=incarnation,
        url="http://127.0.0.1:1",
        transport_address=b"\x00\xff",
        layout=KvLayout("tiny", "0" * 8, "float32", 2, 2, 32),
        page_size=16,
        num_pages=64,
        block_tokens=16,
        max_model_len=2048,
        cost=CostProfile(1e-3, 1e-5, 1e-9, 1e-3, 1e-4, 1e-3, 1e9, 512),
    )


async def names(registry: Registry) -> list[str]:
    return [member.info.name for member in await registry.members()]


def test_members_say_what_they_announced_and_last_beat(run: Scenario) -> None:
    async def scenario(registry: Registry) -> None:
        assert await registry.members() == []
        await registry.announce(worker("decode-0"))
        stats = WorkerStats(running=3, kv_total_tokens=1024, draining=True)
        assert await registry.heartbeat("decode-0", "a", stats)
        (member,) = await registry.members()
        assert member.info == worker("decode-0")
        assert member.stats == stats
        assert 0 <= member.age_s < TIMEOUT_S

    run(scenario)


def test_members_are_in_order_of_pool_and_index(run: Scenario) -> None:
    async def scenario(registry: Registry) -> None:
        for name in ("p-10", "p-9", "decode-2", "p-0", "decode-11"):
            await registry.announce(worker(name))
        assert await names(registry) == ["decode-2", "decode-11", "p-0", "p-9", "p-10"]

    run(scenario)


def test_a_worker_that_falls_silent_is_gone_and_may_come_back(run: Scenario) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.announce(worker("w-0"))
        await registry.announce(worker("w-1"))
        for _ in range(5):
            await asyncio.sleep(TIMEOUT_S / 3)
            assert await registry.heartbeat("w-1", "a", WorkerStats())
        assert await names(registry) == ["w-1"]
        assert not await registry.heartbeat("w-0", "a", WorkerStats())
        await registry.announce(worker("w-0"))
        assert await names(registry) == ["w-0", "w-1"]

    run(scenario)


def test_the_age_grows_until_a_heartbeat(run: Scenario) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.announce(worker("w-0"))
        await asyncio.sleep(0.1)
        (before,) = await registry.members()
        await registry.heartbeat("w-0", "a", WorkerStats())
        (after,) = await registry.members()
        assert before.age_s >= 0.09
        assert after.age_s < before.age_s

    run(scenario)


def test_a_restarted_worker_replaces_its_old_incarnation_for_ever(run: Scenario) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.announce(worker("w-0", "old"))
        await registry.announce(worker("w-0", "new"))
        (member,) = await registry.members()
        assert member.info.incarnation == "new"
        assert not await registry.heartbeat("w-0", "old", WorkerStats())
        with pytest.raises(Gone):
            await registry.announce(worker("w-0", "old"))
        await registry.leave("w-0", "old")
        assert await names(registry) == ["w-0"]
        await asyncio.sleep(TIMEOUT_S * 1.2)
        with pytest.raises(Gone):  # even now that nobody holds the name
            await registry.announce(worker("w-0", "old"))

    run(scenario)


def test_leaving_is_immediate(run: Scenario) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.announce(worker("w-0"))
        await registry.leave("w-0", "a")
        await registry.leave("w-0", "a")
        assert await registry.members() == []
        assert not await registry.heartbeat("w-0", "a", WorkerStats())

    run(scenario)


def test_clusters_do_not_see_each_other(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        one = await RedisRegistry.open(redis_url, cluster, LoopClock())
        other = await RedisRegistry.open(redis_url, cluster + "x", LoopClock())
        await one.announce(worker("w-0"))
        assert await names(one) == ["w-0"]
        assert await names(other) == []
        await one.close()
        await other.close()

    asyncio.run(main())


def test_members_outlive_a_redis_that_restarts_empty() -> None:
    async def main() -> None:
        server = await RedisServer.start()
        registry = await RedisRegistry.open(server.url, "c", LoopClock(), timeout_s=1.0)
        try:
            await registry.announce(worker("w-0"))
            await registry.announce(worker("w-1"))
            assert await names(registry) == ["w-0", "w-1"]
            await server.stop()
            assert await names(registry) == ["w-0", "w-1"]
            assert registry.members_failed == 1
            with pytest.raises(Unavailable):
                await registry.heartbeat("w-0", "a", WorkerStats())
            server = await RedisServer.start(server.port)
            await asyncio.sleep(0.3)  # the pause after a failure
            assert await names(registry) == ["w-0", "w-1"]  # not yet heard of again
            assert not await registry.heartbeat("w-0", "a", WorkerStats())
            await registry.announce(worker("w-0"))
            await asyncio.sleep(0.5)
            assert await registry.heartbeat("w-0", "a", WorkerStats())
            await asyncio.sleep(0.6)
            assert await names(registry) == ["w-0"]  # w-1 has had its time
        finally:
            await registry.close()
            await server.stop()

    asyncio.run(main())


def test_members_outlive_a_flush(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        registry = await RedisRegistry.open(redis_url, cluster, LoopClock(), timeout_s=TIMEOUT_S)
        await registry.announce(worker("w-0"))
        assert await names(registry) == ["w-0"]
        await registry._connection._client.flushall()
        assert await names(registry) == ["w-0"]
        await asyncio.sleep(TIMEOUT_S * 1.1)
        assert await names(registry) == []
        await registry.close()

    asyncio.run(main())


def test_an_announcement_of_another_version_is_left_out(redis_url: str, cluster: str) -> None:
    async def main() -> None:
        registry = await RedisRegistry.open(redis_url, cluster, LoopClock())
        await registry.announce(worker("w-0"))
        await registry.announce(worker("w-1"))
        key = f"mserve:{{{cluster}}}:worker:w-0"
        await registry._connection._client.hset(key, "info", b"\x80")
        assert await names(registry) == ["w-1"]
        await registry.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "cluster_name", "word"),
    [
        ("redis://:secret@127.0.0.1:1/0", "c", "127.0.0.1:1"),
        ("ftp://127.0.0.1", "c", "malformed"),
        ("redis://127.0.0.1:1/0", "white space", "cluster name"),
    ],
)
def test_an_unusable_redis_is_a_config_error(url: str, cluster_name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        asyncio.run(RedisRegistry.open(url, cluster_name, None))  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
