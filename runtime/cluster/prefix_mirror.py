"""The prefix index as a router asks it: a copy in its own process, and Redis where that may be old.

A script polled every 10 ms brings what has changed. A lookup is answered by the copy if a poll that
began at most 50 ms ago has brought everything, and by Redis otherwise, so that no failure of the
copy makes an answer wrong or late. Redis stays the truth, and all changes are made there.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mserve.runtime.cluster.membership import BlockEvents
from mserve.runtime.cluster.prefix_copy import PrefixCopy
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_connection import RedisConnection
from mserve.runtime.cluster.redis_scripts import BEGIN, FOLLOW
from mserve.runtime.errors import Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    poll_s: float = 0.01
    idle_poll_s: float = 0.25  # while nobody has asked for `idle_after_s`
    idle_after_s: float = 1.0
    retry_s: float = 0.25  # while Redis is out of reach
    max_lag_s: float = 0.05
    max_blocks: int = 1_000_000  # some 100 MB; beyond, Redis answers
    # Of one call, so that neither Redis nor this process stops for longer than a few milliseconds:
    max_events: int = 32
    max_copied: int = 2048  # blocks, and workers that have them
    max_shards_swept: int = 4


class PrefixMirror:
    """Implements `PrefixIndex`. The counts say who answered the lookups."""

    def __init__(
        self,
        redis: RedisPrefixIndex,
        connection: RedisConnection,
        options: MirrorOptions | None = None,
    ) -> None:
        """Takes both over: the connection is for polls alone, so that they wait for no lookup."""
        self.lookups_here = 0
        self.lookups_by_redis = 0
        self._redis = redis
        self._connection = connection
        self._options = options or MirrorOptions()
        self._copy: PrefixCopy | None = None
        self._gave_up = False
        self._current = asyncio.Event()  # the copy has everything as of `_current_s`
        self._current_s = 0.0
        self._changed_s = 0.0  # what was read before does not count
        self._asked = asyncio.Event()
        self._asked_s = 0.0
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, url: str, cluster: str, options: MirrorOptions | None = None
    ) -> "PrefixMirror":
        """Raises ConfigError if Redis cannot be used. The copy is made in the background."""
        redis = await RedisPrefixIndex.open(url, cluster)
        try:
            connection = await RedisConnection.open(url, cluster)
        except BaseException:
            await redis.close()
            raise
        mirror = cls(redis, connection, options)
        mirror._following = asyncio.create_task(mirror._follow())
        mirror._following.add_done_callback(_report)
        return mirror

    async def publish(self, worker: str, incarnation: str, events: BlockEvents) -> bool:
        try:
            return await self._redis.publish(worker, incarnation, events)
        finally:
            self._changed()

    async def resync(
        self, worker: str, incarnation: str, sequence: int, blocks: Sequence[int]
    ) -> None:
        try:
            await self._redis.resync(worker, incarnation, sequence, blocks)
        finally:
            self._changed()

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        now = self._now()
        self._asked_s = now
        if not self._asked.is_set():
            self._asked.set()
        if self._copy and self._current.is_set() and self._is_recent(now):
            self.lookups_here += 1
            return self._copy.table.lookup(keys)
        self.lookups_by_redis += 1
        return await self._redis.lookup(keys)

    async def forget(self, worker: str, incarnation: str | None = None) -> None:
        try:
            await self._redis.forget(worker, incarnation)
        finally:
            self._changed()

    async def caught_up(self) -> None:
        """Waits until the copy has everything that is in Redis now; for ever if it gave up."""
        self._changed()
        self._asked_s = self._now()
        self._asked.set()
        await self._current.wait()

    async def poll(self) -> bool:
        """One call to Redis; whether there is more to read at once. Raises Unavailable."""
        copy = self._copy
        if copy is None:
            last_id, names = await self._connection.run(BEGIN)
            self._copy = PrefixCopy(last_id, names)
            return True
        began_s, most = self._now(), self._options.max_events
        bucket = "" if copy.next_bucket is None else copy.next_bucket
        reply = await self._connection.run(
            FOLLOW, copy.last_id, most, bucket, self._options.max_copied
        )
        if not reply:
            log.info("the prefix index was cut or emptied; it is copied again")
            await self._start_over()
            return True
        events, next_bucket, buckets = reply
        copy.apply(events)
        copy.table.sweep(self._options.max_shards_swept)
        if len(events) == most:
            return True
        if copy.next_bucket is not None:
            copy.add_buckets(int(next_bucket), buckets)
        if copy.next_bucket is None and began_s > self._changed_s:
            self._current_s = began_s
            self._current.set()
        return copy.next_bucket is not None

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self._redis.close()
        await self._connection.close()

    async def _follow(self) -> None:
        while not self._gave_up:
            try:
                more = await self.poll()
            except Unavailable:
                await asyncio.sleep(self._options.retry_s)
                continue
            if self._copy and self._copy.table.num_blocks > self._options.max_blocks:
                await self._give_up()
            elif not more:
                await self._rest()

    async def _rest(self) -> None:
        options = self._options
        if self._now() - self._asked_s < options.idle_after_s:
            await asyncio.sleep(options.poll_s)
            return
        self._asked.clear()
        try:
            async with asyncio.timeout(options.idle_poll_s):
                await self._asked.wait()
        except TimeoutError:
            return

    async def _give_up(self) -> None:
        log.warning(
            "the prefix index has more than %d blocks: Redis answers lookups instead of a copy",
            self._options.max_blocks,
        )
        self._gave_up = True
        await self._start_over()

    async def _start_over(self) -> None:
        """Memory of a large copy is given back in steps: at once would take too long."""
        self._current.clear()
        copy, self._copy = self._copy, None
        for _ in copy.table.dismantle() if copy else ():
            await asyncio.sleep(0)

    def _changed(self) -> None:
        """What this process has changed it sees at once: Redis answers until the next poll."""
        self._changed_s = self._now()
        self._current.clear()

    def _is_recent(self, now: float) -> bool:
        return now - self._current_s < self._options.max_lag_s

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _report(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.error("the copy of the prefix index failed; Redis answers lookups", exc_info=error)
