"""How fast and how large is the prefix index? In memory and straight to Redis.

    python bench/prefix_index.py [--json FILE]

Lookups of 64 blocks over 8 and 64 workers: 512 prompts, whose first 16 blocks are shared by all;
every worker caches a random prefix of each. Bars: at least 5,000 lookups/s straight to Redis
(concurrent), under 100 bytes per block in Redis.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from mserve.runtime.cluster.membership import BlockEvents, PrefixIndex
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_server import RedisServer
from record import write_record

PROMPT_BLOCKS = 64
SHARED_BLOCKS = 16
NUM_PROMPTS = 512
CONCURRENCY = 64
BATCH_BLOCKS = 64
SIZE_BLOCKS = 500_000


@dataclass(frozen=True, slots=True)
class Result:
    index: str
    workers: int
    lookups_per_s: float  # of 64 blocks, concurrent
    lookup_p50_us: float  # one at a time
    lookup_p99_us: float
    blocks_published_per_s: float  # in batches of 64, half stored and half evicted


def prompts(source: random.Random) -> list[list[int]]:
    shared = keys(SHARED_BLOCKS, source)
    return [[*shared, *keys(PROMPT_BLOCKS - SHARED_BLOCKS, source)] for _ in range(NUM_PROMPTS)]


def keys(count: int, source: random.Random) -> list[int]:
    return [source.getrandbits(64) for _ in range(count)]


async def fill(
    index: PrefixIndex, chains: list[list[int]], workers: int, source: random.Random
) -> None:
    for number in range(workers):
        held: dict[int, None] = {}
        for chain in chains:
            held.update(dict.fromkeys(chain[: source.randint(0, PROMPT_BLOCKS)]))
        await index.resync(f"w-{number}", "a", 1, list(held))


async def lookups_per_s(index: PrefixIndex, chains: list[list[int]], duration_s: float) -> float:
    done = 0
    began = time.perf_counter()

    async def client(place: int) -> None:
        nonlocal done
        while time.perf_counter() - began < duration_s:
            assert await index.lookup(chains[place % NUM_PROMPTS])
            place, done = place + CONCURRENCY, done + 1

    await asyncio.gather(*(client(place) for place in range(CONCURRENCY)))
    return done / (time.perf_counter() - began)


async def latencies_us(index: PrefixIndex, chains: list[list[int]]) -> list[float]:
    times = []
    for number in range(1000):
        began = time.perf_counter()
        await index.lookup(chains[number % NUM_PROMPTS])
        times.append(1e6 * (time.perf_counter() - began))
    return sorted(times)


async def blocks_per_s(
    index: PrefixIndex, workers: int, duration_s: float, source: random.Random
) -> float:
    """Every worker publishes; a batch evicts what the batch before it stored."""
    done = 0
    began = time.perf_counter()
    half = BATCH_BLOCKS // 2
    pool = keys(half * 256, source)

    async def publisher(worker: str) -> None:
        nonlocal done
        evicted: tuple[int, ...] = ()
        sequence = 1
        while time.perf_counter() - began < duration_s:
            sequence += 1
            start = source.randrange(256) * half
            stored = tuple(pool[start : start + half])
            assert await index.publish(worker, "a", BlockEvents(sequence, evicted, stored))
            done += len(evicted) + len(stored)
            evicted = stored

    await asyncio.gather(*(publisher(f"w-{number}") for number in range(workers)))
    return done / (time.perf_counter() - began)


async def measure(name: str, index: PrefixIndex, workers: int, duration_s: float) -> Result:
    source = random.Random(workers)
    chains = prompts(source)
    await fill(index, chains, workers, source)
    if isinstance(index, RedisPrefixIndex):
        await index.swept()
    rate = await lookups_per_s(index, chains, duration_s)
    times = await latencies_us(index, chains)
    published = await blocks_per_s(index, workers, duration_s, source)
    return Result(
        name, workers, round(rate), round(times[500], 1), round(times[990], 1), round(published)
    )


async def bytes_per_block(url: str, used: Callable[[], Awaitable[int]]) -> float:
    """Growth of Redis' memory, event stream included, with two workers sharing half the blocks."""
    index = await RedisPrefixIndex.open(url, "size")
    before = await used()
    blocks = keys(SIZE_BLOCKS, random.Random(0))
    await index.resync("w-0", "a", 1, blocks)
    await index.resync("w-1", "a", 1, blocks[: SIZE_BLOCKS // 2])
    grown = await used() - before
    await index.close()
    return grown / SIZE_BLOCKS


async def used_memory(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"INFO memory\r\n")
    head = await reader.readline()
    info = (await reader.readexactly(int(head[1:]))).decode()
    writer.close()
    return int(info.partition("used_memory:")[2].split()[0])


async def main(duration_s: float) -> dict[str, object]:
    results = []
    for workers in (8, 64):
        results.append(await measure("memory", MemoryPrefixIndex(), workers, duration_s))
    async with await RedisServer.start() as server:
        for workers in (8, 64):
            index = await RedisPrefixIndex.open(server.url, f"speed-{workers}")
            results.append(await measure("redis", index, workers, duration_s))
            await index.close()
        size = await bytes_per_block(server.url, lambda: used_memory(server.port))
    for result in results:
        print(
            f"{result.index:>6}, {result.workers:2} workers: {result.lookups_per_s:9,.0f} lookups/s"
            f" (alone p50 {result.lookup_p50_us:,.0f} us, p99 {result.lookup_p99_us:,.0f} us),"
            f" {result.blocks_published_per_s:9,.0f} blocks/s published"
        )
    print(f" redis: {size:.1f} bytes per block")
    return {"results": [asdict(result) for result in results], "redis_bytes_per_block": size}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds of each measurement")
    options = parser.parse_args()
    figures = uvloop.run(main(options.duration))
    write_record(
        options.json, "prefix index: lookups, updates, memory", ["mserve", "redis"], **figures
    )
