"""How fast and how large is the prefix index? In memory, mirrored in the router, straight to Redis.

    python bench/prefix_index.py [--json FILE]

Lookups of 64 blocks over 8 and 64 workers: 512 prompts, whose first 16 blocks are shared by all;
every worker caches a random prefix of each. Bars over 64 workers: by a mirror 30 us (p50) and
30,000 lookups/s, straight to Redis 5,000 lookups/s (concurrent); under 100 bytes per block in Redis.
"""

import argparse
import asyncio
import random
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from mserve.runtime.cluster.membership import BlockEvents, PrefixIndex
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.prefix_mirror import MirrorOptions, PrefixMirror
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
    blocks_published_per_s: float  # in batches of 64, half stored and half evicted; and read back


@dataclass(frozen=True, slots=True)
class Size:
    blocks: int
    redis_index_bytes_per_block: float
    redis_stream_bytes: int  # it is capped: a part of each block's only while there are few
    mirror_bytes_per_block: float
    catch_up_s: float  # of a new mirror
    longest_stall_ms: float  # of the router meanwhile, beyond a tick of 1 ms
    longest_stall_without_ms: float  # the same while no mirror is made: what the machine adds


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
    if isinstance(index, PrefixMirror):
        await index.caught_up()
    return done / (time.perf_counter() - began)


async def measure(name: str, index: PrefixIndex, workers: int, duration_s: float) -> Result:
    source = random.Random(workers)
    chains = prompts(source)
    await fill(index, chains, workers, source)
    if isinstance(index, RedisPrefixIndex):
        await index.swept()
    if isinstance(index, PrefixMirror):
        await index.caught_up()
    rate = await lookups_per_s(index, chains, duration_s)
    times = await latencies_us(index, chains)
    published = await blocks_per_s(index, workers, duration_s, source)
    return Result(
        name, workers, round(rate), round(times[500], 1), round(times[990], 1), round(published)
    )


async def measure_size(server: RedisServer) -> Size:
    """Two workers, of which one has half the blocks of the other; then a mirror of it."""
    index = await RedisPrefixIndex.open(server.url, "size")
    await index.swept()
    before = await used_memory(server.port)
    blocks = keys(SIZE_BLOCKS, random.Random(0))
    await index.resync("w-0", "a", 1, blocks)
    await index.resync("w-1", "a", 1, blocks[: SIZE_BLOCKS // 2])
    grown = await used_memory(server.port) - before
    events = b"mserve:{size}:index:events"
    stream = int((await command(server.port, b"MEMORY USAGE %b SAMPLES 0" % events))[1:])
    quiet_ms = await longest_stall_ms(asyncio.create_task(asyncio.sleep(2.0)))
    resident, began = resident_bytes(), time.perf_counter()
    mirror = await PrefixMirror.open(server.url, "size", MirrorOptions())
    stall_ms = await longest_stall_ms(asyncio.create_task(mirror.caught_up()))
    caught_up_s, resident = time.perf_counter() - began, resident_bytes() - resident
    await mirror.close()
    await index.close()
    return Size(
        SIZE_BLOCKS,
        round((grown - stream) / SIZE_BLOCKS, 1),
        stream,
        round(resident / SIZE_BLOCKS, 1),
        round(caught_up_s, 2),
        round(stall_ms, 1),
        round(quiet_ms, 1),
    )


async def longest_stall_ms(meanwhile: asyncio.Task[None]) -> float:
    longest_s = 0.0
    while not meanwhile.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        longest_s = max(longest_s, time.perf_counter() - began - 0.001)
    await meanwhile
    return 1e3 * longest_s


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def used_memory(port: int) -> int:
    info = (await command(port, b"INFO memory")).decode()
    return int(info.partition("used_memory:")[2].split()[0])


async def command(port: int, words: bytes) -> bytes:
    """An integer's line, or the bytes of a string."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words + b"\r\n")
    head = await reader.readline()
    reply = await reader.readexactly(int(head[1:])) if head.startswith(b"$") else head
    writer.close()
    return reply


async def measure_all(server: RedisServer, duration_s: float) -> list[Result]:
    results = []
    for workers in (8, 64):
        results.append(await measure("memory", MemoryPrefixIndex(), workers, duration_s))
        mirror = await PrefixMirror.open(server.url, f"mirror-{workers}", MirrorOptions())
        results.append(await measure("mirror", mirror, workers, duration_s))
        await mirror.close()
        index = await RedisPrefixIndex.open(server.url, f"speed-{workers}")
        results.append(await measure("redis", index, workers, duration_s))
        await index.close()
    return results


async def main(duration_s: float) -> dict[str, object]:
    async with await RedisServer.start() as server:
        size = await measure_size(server)
        results = await measure_all(server, duration_s)
    for result in results:
        print(
            f"{result.index:>6}, {result.workers:2} workers: {result.lookups_per_s:9,.0f} lookups/s"
            f" (alone p50 {result.lookup_p50_us:,.0f} us, p99 {result.lookup_p99_us:,.0f} us),"
            f" {result.blocks_published_per_s:9,.0f} blocks/s published"
        )
    for name, value in asdict(size).items():
        print(f"{name}: {value:,}")
    return {"results": [asdict(result) for result in results], "size": asdict(size)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds of each measurement")
    options = parser.parse_args()
    figures = uvloop.run(main(options.duration))
    write_record(
        options.json, "prefix index: lookups, updates, memory", ["mserve", "redis"], **figures
    )
