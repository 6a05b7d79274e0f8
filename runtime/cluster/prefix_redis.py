"""The prefix index in Redis: exact, shared by all routers, about 20 bytes a block.

Redis gathers which slots have each block; who has how many is worked out here, since routers are
many and Redis is one. A call is one script and one round trip, a resync one per 1,024 blocks.
Slots of workers that are gone are swept in the background by whoever noticed, with the progress in
Redis, so that another process can go on. redis_scripts.py has the scripts and the keys' layout.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Sequence

from mserve.runtime.cluster.membership import BlockEvents
from mserve.runtime.cluster.prefix_index import index_full
from mserve.runtime.cluster.redis_connection import RedisConnection
from mserve.runtime.cluster.redis_scripts import FILL, FORGET, LOOKUP, PUBLISH, RESYNC, SWEEP
from mserve.runtime.cluster.succession import replaced
from mserve.runtime.errors import Unavailable

_FILL_BLOCKS = 1024
_LOOKUP_BYTES = 8 * 1024  # of keys, in one script unless it is one long prompt's: a millisecond
_LOOKUP_SCRIPTS = 2
_SWEEP_FIELDS = 1024  # visited by one script: about a millisecond of Redis' time


class RedisPrefixIndex:
    """Implements `PrefixIndex`; the two counts say how often Redis was out of reach."""

    def __init__(self, connection: RedisConnection) -> None:
        self.lookups_failed = 0
        self.publishes_failed = 0
        self._connection = connection
        self._sweep: asyncio.Task[None] | None = None
        self._lookups = _Lookups(connection)

    @classmethod
    async def open(cls, url: str, cluster: str) -> "RedisPrefixIndex":
        """Raises ConfigError if Redis cannot be used."""
        index = cls(await RedisConnection.open(url, cluster))
        index._start_sweep()  # what a process that is gone may have left
        return index

    async def publish(self, worker: str, incarnation: str, events: BlockEvents) -> bool:
        evicted, stored = _packed(events.evicted), _packed(events.stored)
        try:
            applied = await self._connection.run(
                PUBLISH, worker, incarnation, events.sequence, evicted, stored
            )
        except Unavailable:
            self.publishes_failed += 1
            return False
        if events.sequence == 1:
            self._start_sweep()
        return bool(applied)

    async def resync(
        self, worker: str, incarnation: str, sequence: int, blocks: Sequence[int]
    ) -> None:
        slot = await self._begin(worker, incarnation, sequence)
        if slot is None:
            return
        self._start_sweep()
        for begin in range(0, max(1, len(blocks)), _FILL_BLOCKS):
            chunk = blocks[begin : begin + _FILL_BLOCKS]
            last = begin + _FILL_BLOCKS >= len(blocks)
            if not await self._connection.run(
                FILL, worker, slot, _packed(chunk), sequence if last else ""
            ):
                raise Unavailable(f"Another resync of worker {worker} came in between.")

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        if not keys:
            return {}
        try:
            return await self._lookups.ask(_packed(keys))
        except Unavailable:
            self.lookups_failed += 1
            return {}

    async def forget(self, worker: str, incarnation: str | None = None) -> None:
        if await self._connection.run(FORGET, worker, incarnation or ""):
            self._start_sweep()

    async def swept(self) -> None:
        """Waits until no slot awaits its sweep. Raises Unavailable."""
        while await self._connection.run(SWEEP, _SWEEP_FIELDS):
            pass

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            await asyncio.wait([self._sweep])
        await self._lookups.close()
        await self._connection.close()

    async def _begin(self, worker: str, incarnation: str, sequence: int) -> bytes | None:
        """The slot to fill; None if the index already has a later state of this incarnation."""
        slot: bytes = await self._connection.run(RESYNC, worker, incarnation, sequence)
        if slot == b"full":  # slots of workers that are gone may wait for their sweep
            await self.swept()
            slot = await self._connection.run(RESYNC, worker, incarnation, sequence)
        if slot == b"full":
            raise index_full()
        if slot == b"replaced":
            raise replaced(worker, incarnation)
        return None if slot == b"overtaken" else slot

    def _start_sweep(self) -> None:
        if self._sweep is None or self._sweep.done():
            self._sweep = asyncio.create_task(self._sweep_quietly())

    async def _sweep_quietly(self) -> None:
        """What an unreachable Redis interrupts, the next sweep by anyone takes up again."""
        try:
            await self.swept()
        except Unavailable:
            return


class _Lookups:
    """Lookups that wait go together in one script, and two scripts are under way, so that this
    process and Redis work at the same time."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._waiting: deque[tuple[bytes, asyncio.Future[dict[str, int]]]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def ask(self, keys: bytes) -> dict[str, int]:
        """Raises Unavailable."""
        answer: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, answer))
        # A sender is done in the very step in which it finds that nobody waits.
        self._senders = {sender for sender in self._senders if not sender.done()}
        if len(self._senders) < _LOOKUP_SCRIPTS:
            self._senders.add(asyncio.create_task(self._send()))
        return await answer

    async def close(self) -> None:
        """Cancels those who still wait."""
        for sender in self._senders:
            sender.cancel()
        for _, answer in self._waiting:
            answer.cancel()
        if self._senders:
            await asyncio.wait(self._senders)

    async def _send(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            answers = [answer for _, answer in batch]
            try:
                named, *found = await self._connection.run(LOOKUP, *[keys for keys, _ in batch])
            except Unavailable as error:
                for answer in answers:
                    if not answer.done():  # its caller was cancelled
                        answer.set_exception(error)
            else:
                workers = _workers(named)
                for answer, held in zip(answers, found, strict=True):
                    if not answer.done():
                        answer.set_result(_matched(held, workers))
            finally:
                for answer in answers:
                    answer.cancel()

    def _next_batch(self) -> list[tuple[bytes, asyncio.Future[dict[str, int]]]]:
        batch = [self._waiting.popleft()]
        size = len(batch[0][0])
        while self._waiting and size + len(self._waiting[0][0]) <= _LOOKUP_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][0])
        return batch


def _workers(named: list[bytes]) -> dict[int, str]:
    """By slot, without those that are resyncing."""
    pairs = zip(named[::2], named[1::2], strict=True)
    return {slot[0]: worker.decode() for slot, worker in pairs if worker[0]}


def _matched(held: list[bytes], workers: dict[int, str]) -> dict[str, int]:
    """`held` has the slots of each block in turn, empty where they are those of the one before."""
    counts: dict[int, int] = {}
    alive = held[0] if held else b""
    for count, slots in enumerate(held):
        gone = alive.translate(None, slots) if slots else b""
        counts.update(dict.fromkeys(gone, count))
        alive = alive.translate(None, gone)
        if not alive:
            break
    counts.update(dict.fromkeys(alive, len(held)))
    return {workers[slot]: count for slot, count in counts.items() if slot in workers}


def _packed(keys: Sequence[int]) -> bytes:
    return struct.pack(f">{len(keys)}Q", *keys)
