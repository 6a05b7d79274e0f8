"""The contract of PrefixIndex, over its three implementations: memory, Redis, a mirror of Redis."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from mserve.runtime.cluster.membership import MAX_WORKERS, BlockEvents, PrefixIndex
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.prefix_mirror import MirrorOptions, PrefixMirror
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_server import executables
from mserve.runtime.errors import Gone, NoRoom

Scenario = Callable[[Callable[[PrefixIndex], Awaitable[None]]], None]


class CaughtUpMirror(PrefixMirror):
    """Answers from its copy only, after another process (it seems) has changed Redis."""

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        await self.caught_up()
        before = self.lookups_here
        found = await super().lookup(keys)
        assert self.lookups_here == before + 1
        return found


async def open_index(kind: str, url: str, cluster: str) -> PrefixIndex:
    if kind == "memory":
        return MemoryPrefixIndex()
    if kind == "redis":
        return await RedisPrefixIndex.open(url, cluster)
    return await CaughtUpMirror.open(url, cluster, MirrorOptions(poll_s=0.001, max_lag_s=60.0))


KINDS = [("memory", ""), *((kind, name) for kind in ("redis", "mirror") for name in executables())]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join((kind[0], *kind[1].split("/")[-3:])))
def run(request: pytest.FixtureRequest, cluster: str) -> Scenario:
    """Runs a scenario against a fresh, empty index and closes it."""
    kind, program = request.param
    url = request.getfixturevalue("redis_urls")[program] if program else ""

    async def main(scenario: Callable[[PrefixIndex], Awaitable[None]]) -> None:
        index = await open_index(kind, url, cluster)
        try:
            await scenario(index)
        finally:
            await index.close()

    return lambda scenario: asyncio.run(main(scenario))


def events(sequence: int, stored: object = (), evicted: object = ()) -> BlockEvents:
    return BlockEvents(sequence, tuple(evicted), tuple(stored))  # type: ignore[arg-type]


def random_keys(count: int) -> list[int]:
    source = random.Random(0)
    return [source.getrandbits(64) for _ in range(count)]


CHAIN = random_keys(64)


def test_counts_leading_blocks_without_a_gap(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        assert await index.publish("w-0", "a", events(1, CHAIN))
        assert await index.publish("w-1", "a", events(1, [*CHAIN[:5], *CHAIN[6:]]))
        assert await index.publish("w-2", "a", events(1, CHAIN[1:]))
        assert await index.lookup(CHAIN) == {"w-0": 64, "w-1": 5}
        assert await index.lookup(CHAIN[:3]) == {"w-0": 3, "w-1": 3}
        assert await index.lookup([*CHAIN[:3], 7]) == {"w-0": 3, "w-1": 3}
        assert await index.lookup([7, *CHAIN]) == {}
        assert await index.lookup([]) == {}

    run(scenario)


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1, 2**63, 0x2A2B2C2D2E2F3031, 0x0A0D000A0D002500])
def test_takes_any_64_bit_key(run: Scenario, key: int) -> None:
    async def scenario(index: PrefixIndex) -> None:
        assert await index.publish("w-0", "a", events(1, [key]))
        assert await index.lookup([key]) == {"w-0": 1}
        assert await index.lookup([key ^ 1]) == {}
        assert await index.publish("w-0", "a", events(2, evicted=[key]))
        assert await index.lookup([key]) == {}

    run(scenario)


def test_evictions_come_first(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        await index.publish("w-0", "a", events(1, [1, 2, 3]))
        await index.publish("w-0", "a", events(2, stored=[2, 2, 4], evicted=[2, 3, 9, 3]))
        assert await index.lookup([1, 2, 4]) == {"w-0": 3}
        assert await index.lookup([3]) == {}

    run(scenario)


def test_a_repeated_batch_is_applied_once(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        first, second = events(1, [1]), events(2, evicted=[1])
        for batch in (first, second, first, second):
            assert await index.publish("w-0", "a", batch)
        assert await index.lookup([1]) == {}

    run(scenario)


def test_a_gap_asks_for_a_resync_which_repairs(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        assert not await index.publish("w-0", "a", events(3, [1]))
        assert await index.publish("w-0", "a", events(1, [1]))
        assert not await index.publish("w-0", "a", events(3, [3]))
        assert await index.lookup([3]) == {}
        await index.resync("w-0", "a", 3, [2, 3])
        assert await index.lookup([1]) == {}
        assert await index.lookup([2, 3]) == {"w-0": 2}
        assert await index.publish("w-0", "a", events(3, [4]))  # late: already contained
        assert await index.lookup([4]) == {}
        assert await index.publish("w-0", "a", events(4, [4]))
        assert await index.lookup([2, 3, 4]) == {"w-0": 3}

    run(scenario)


def test_an_overtaken_resync_changes_nothing(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        await index.resync("w-0", "a", 5, [5])
        await index.resync("w-0", "a", 4, [4])
        assert await index.lookup([5]) == {"w-0": 1}
        assert await index.lookup([4]) == {}

    run(scenario)


def test_a_large_resync_is_whole(run: Scenario) -> None:
    blocks = random_keys(3000)

    async def scenario(index: PrefixIndex) -> None:
        await index.publish("w-0", "a", events(1, [1]))
        await index.resync("w-0", "a", 9, blocks)
        assert await index.lookup(blocks) == {"w-0": 3000}
        await index.resync("w-0", "a", 9, [])
        assert await index.lookup(blocks) == {}
        assert await index.publish("w-0", "a", events(10, [1]))

    run(scenario)


def test_a_new_incarnation_starts_empty_and_ends_the_old(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        assert await index.publish("w-0", "old", events(1, [1, 2]))
        assert await index.publish("w-0", "new", events(1, [1]))
        assert await index.lookup([1, 2]) == {"w-0": 1}
        assert not await index.publish("w-0", "old", events(2, [2]))
        assert not await index.publish("w-0", "old", events(1, [2]))
        with pytest.raises(Gone):
            await index.resync("w-0", "old", 2, [1, 2])
        assert await index.lookup([1, 2]) == {"w-0": 1}
        await index.resync("w-0", "newest", 0, [2])
        assert await index.lookup([1]) == {}
        assert not await index.publish("w-0", "new", events(2, [1]))

    run(scenario)


def test_a_forgotten_worker_is_masked_and_may_come_back(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        await index.publish("w-0", "a", events(1, CHAIN))
        await index.publish("w-1", "a", events(1, CHAIN))
        await index.forget("w-0")
        await index.forget("w-0")
        await index.forget("nobody")
        assert await index.lookup(CHAIN) == {"w-1": 64}
        assert not await index.publish("w-0", "a", events(2, [1]))
        await index.resync("w-0", "a", 2, CHAIN[:2])
        assert await index.lookup(CHAIN) == {"w-0": 2, "w-1": 64}

    run(scenario)


def test_forgetting_an_incarnation_spares_its_successor(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        await index.publish("w-0", "new", events(1, [1]))
        await index.forget("w-0", "old")
        assert await index.lookup([1]) == {"w-0": 1}
        await index.forget("w-0", "new")
        assert await index.lookup([1]) == {}

    run(scenario)


def test_many_workers_with_prefixes_of_all_lengths(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        order = random.Random(1).sample(range(64), 64)
        for number in order:
            assert await index.publish(f"w-{number}", "a", events(1, CHAIN[:number]))
        expected = {f"w-{number}": number for number in range(1, 64)}
        assert await index.lookup(CHAIN) == expected
        for number in order[:32]:
            await index.forget(f"w-{number}")
        expected = {f"w-{number}": number for number in order[32:] if number}
        assert await index.lookup(CHAIN) == expected

    run(scenario)


def test_holds_256_workers_and_refuses_another(run: Scenario) -> None:
    async def scenario(index: PrefixIndex) -> None:
        for number in range(MAX_WORKERS):
            assert await index.publish(f"w-{number}", "a", events(1, [1]))
        assert len(await index.lookup([1])) == MAX_WORKERS
        assert not await index.publish("late", "a", events(1, [1]))
        with pytest.raises(NoRoom):
            await index.resync("late", "a", 1, [1])
        await index.forget("w-17")
        await index.resync("late", "a", 1, [1])
        await index.resync("w-200", "b", 1, [2])
        assert len(await index.lookup([1])) == MAX_WORKERS - 1

    run(scenario)
