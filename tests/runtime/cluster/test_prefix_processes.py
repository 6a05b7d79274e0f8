"""By force: routers, workers and Redis as processes that are killed and frozen at random.

Once nothing changes any more, Redis and the mirror of each router say what the workers hold. This
file is also what the processes run: a worker that caches at random, a router that only looks.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, field

import pytest

from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import BlockEvents, KvLayout, WorkerInfo, WorkerStats
from mserve.runtime.cluster.prefix_mirror import PrefixMirror
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_server import RedisServer
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import Unavailable
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.worker import ipc
from mserve.runtime.worker.announcer import Announcer

CLUSTER = "forced"
NUM_KEYS = 2000
NUM_WORKERS = 3
NUM_ROUTERS = 2
KEYS = [random.Random(key).getrandbits(64) for key in range(NUM_KEYS)]
Held = dict[str, list[int]]  # by worker, places in KEYS


async def line_of(stream: asyncio.StreamReader) -> str:
    return (await stream.readline()).decode().strip()


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


# --- a worker: a cache that changes at random until it is told to stop -------------------------


class Cache:
    def __init__(self) -> None:
        self.sequence = 0
        self.places: set[int] = set()

    def change(self) -> BlockEvents:
        begin = random.randrange(NUM_KEYS)
        stored = set(range(begin, min(NUM_KEYS, begin + random.randrange(40)))) - self.places
        evicted = random.sample(sorted(self.places), min(len(self.places), random.randrange(30)))
        self.places = (self.places - set(evicted)) | stored
        self.sequence += 1
        return BlockEvents(
            self.sequence, tuple(KEYS[at] for at in evicted), tuple(KEYS[at] for at in stored)
        )

    async def snapshot(self) -> ipc.Snapshot:
        return ipc.Snapshot(0, self.sequence, tuple(KEYS[at] for at in self.places))


async def work(url: str, name: str) -> None:
    clock, cache = LoopClock(), Cache()
    layout = KvLayout("tiny", "w", "float32", 4, 2, 64)
    cost = CostProfile(0.001, 0.0001, 0.0, 0.01, 0.0, 0.0, 1e9, 1000)
    incarnation = os.urandom(8).hex()
    info = WorkerInfo(name, "workers", incarnation, "", b"", layout, 16, 64, 16, 4096, cost)
    announcer = Announcer(
        info,
        await RedisRegistry.open(url, CLUSTER, clock),
        await RedisPrefixIndex.open(url, CLUSTER),
        cache.snapshot,
        WorkerStats,
        lambda addresses: None,
    )
    await announcer.join()
    told = asyncio.create_task(line_of(await standard_input()))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(announcer.run())
        print("ready", flush=True)
        while not told.done():
            announcer.blocks_changed(cache.change())
            await asyncio.sleep(0.002)
        print(json.dumps(sorted(cache.places)), flush=True)


# --- a router: its registry and its mirror -----------------------------------------------------


async def watch(url: str) -> None:
    mirror = await PrefixMirror.open(url, CLUSTER)

    async def forget(info: WorkerInfo) -> None:
        try:
            await mirror.forget(info.name, info.incarnation)
        except Unavailable:
            return

    clock = LoopClock()
    fleet = Fleet(await RedisRegistry.open(url, CLUSTER, clock), clock, on_gone=forget)
    lines = await standard_input()
    async with fleet.polling():
        print("ready", flush=True)
        while await line_of(lines):
            print(json.dumps(await held_here(mirror)), flush=True)


async def held_here(mirror: PrefixMirror) -> Held:
    """What the copy says; nothing if it had to ask Redis."""
    await mirror.caught_up()
    before = mirror.lookups_by_redis
    held = await held_in(mirror)
    return held if mirror.lookups_by_redis == before else {}


async def held_in(index: PrefixMirror | RedisPrefixIndex) -> Held:
    held: Held = {}
    answers = await asyncio.gather(*[index.lookup([key]) for key in KEYS])
    for at, found in enumerate(answers):
        for name in found:
            held.setdefault(name, []).append(at)
    return held


# --- the test ----------------------------------------------------------------------------------


@dataclass
class Cluster:
    server: RedisServer
    workers: dict[str, Process] = field(default_factory=dict)
    routers: list[Process] = field(default_factory=list)

    async def start(self, *arguments: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *arguments, stdin=PIPE, stdout=PIPE, limit=1 << 20
        )
        assert process.stdout is not None
        assert await line_of(process.stdout) == "ready"
        return process

    async def begin(self) -> None:
        names = [f"workers-{number}" for number in range(NUM_WORKERS)]
        started = [self.start("worker", self.server.url, name) for name in names]
        self.workers = dict(zip(names, await asyncio.gather(*started), strict=True))
        routers = [self.start("router", self.server.url) for _ in range(NUM_ROUTERS)]
        self.routers = list(await asyncio.gather(*routers))

    async def disturb(self, kind: str, source: random.Random) -> None:
        if kind == "kill worker":
            name = source.choice(sorted(self.workers))
            self.workers[name].kill()
            await self.workers[name].wait()
            self.workers[name] = await self.start("worker", self.server.url, name)
        elif kind == "kill redis":
            await self.redis_answers()
            os.kill(self.server.pid, signal.SIGKILL)  # its supervisor starts another one
        else:
            process = source.choice([*self.workers.values(), *self.routers])
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(source.choice([0.05, 0.6, 3.0]))
            process.send_signal(signal.SIGCONT)

    async def redis_answers(self) -> None:
        """Waits for the one that is being started, if there is one."""
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
            if self.server._relaunch is not None:
                await self.server._relaunch  # one that dies before it is ready is not replaced

    async def end(self) -> None:
        for process in (*self.workers.values(), *self.routers):
            if process.returncode is None:
                process.kill()
            await process.wait()
        await self.server.stop()


async def ask(process: Process) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"now\n")
    return await line_of(process.stdout)


async def seconds_until_equal(cluster: Cluster, timeout_s: float) -> float:
    """Until Redis and each router's mirror equal what the workers say that they hold."""
    living = dict(cluster.workers)
    living.popitem()[1].kill()  # the dead hold nothing
    expected = {name: json.loads(await ask(worker)) for name, worker in living.items()}
    expected = {name: places for name, places in expected.items() if places}
    await cluster.redis_answers()
    index = await RedisPrefixIndex.open(cluster.server.url, CLUSTER)
    began = time.monotonic()
    try:
        while True:
            found = [await held_in(index)]
            found += [json.loads(await ask(router)) for router in cluster.routers]
            taken_s = time.monotonic() - began
            if all(held == expected for held in found):
                return taken_s
            assert taken_s < timeout_s, [
                {
                    name: len(set(held.get(name, [])) ^ set(places))
                    for name, places in expected.items()
                }
                for held in found
            ]
            await asyncio.sleep(0.1)
    finally:
        await index.close()


@pytest.mark.chaos
@pytest.mark.parametrize(("seed", "last"), [(0, "kill worker"), (1, "kill redis"), (2, "freeze")])
def test_mirrors_and_redis_equal_the_workers_once_quiet(seed: int, last: str) -> None:
    source = random.Random(seed)
    kinds = source.choices(["kill worker", "kill redis", "freeze"], weights=[2, 1, 2], k=7)

    async def main() -> None:
        cluster = Cluster(await RedisServer.start())
        try:
            await cluster.begin()
            for kind in [*kinds, last]:
                await cluster.disturb(kind, source)
                await asyncio.sleep(source.choice([0.1, 0.5]))
            # A registry's time-out after Redis came back, and the heartbeat that finds it empty.
            print(f"equal after {await seconds_until_equal(cluster, 15.0):.2f} s")
        finally:
            await cluster.end()

    asyncio.run(main())


if __name__ == "__main__":
    role, *given = sys.argv[1:]
    asyncio.run(work(*given) if role == "worker" else watch(*given))
