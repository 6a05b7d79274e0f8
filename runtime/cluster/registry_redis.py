"""The registry in Redis: one key per worker that expires unless heartbeats renew it.

    worker:NAME        HASH incarnation, info, stats; expires after the time-out, by Redis' clock
    workers            SET of names
    incarnations:NAME  LIST, the latest first; for a day; shared with the prefix index
    epoch              when this Redis was first used; a new one means that it lost its contents

All under the cluster's prefix. Hosts' clocks play no part in who is alive.
"""

import logging
from typing import Any

import msgspec
from msgspec.structs import replace

from mserve.runtime.clock import Clock
from mserve.runtime.cluster.membership import (
    HEARTBEAT_TIMEOUT_S,
    Member,
    WorkerInfo,
    WorkerStats,
)
from mserve.runtime.cluster.redis_connection import RedisConnection, Script
from mserve.runtime.cluster.redis_scripts import SUCCESSION
from mserve.runtime.cluster.registry import in_order
from mserve.runtime.cluster.succession import replaced
from mserve.runtime.errors import Unavailable

log = logging.getLogger(__name__)

_ANNOUNCE = Script(
    SUCCESSION
    + """
local name, incarnation, info, stats, timeout_ms = unpack(ARGV)
if not admits(KEYS[1] .. 'incarnations:' .. name, incarnation) then return 0 end
local key = KEYS[1] .. 'worker:' .. name
redis.call('HSET', key, 'incarnation', incarnation, 'info', info, 'stats', stats)
redis.call('PEXPIRE', key, timeout_ms)
redis.call('SADD', KEYS[1] .. 'workers', name)
return 1
"""
)

_HEARTBEAT = Script("""
local name, incarnation, stats, timeout_ms = unpack(ARGV)
local key = KEYS[1] .. 'worker:' .. name
if redis.call('HGET', key, 'incarnation') ~= incarnation then return 0 end
redis.call('HSET', key, 'stats', stats)
redis.call('PEXPIRE', key, timeout_ms)
return 1
""")

_LEAVE = Script("""
local name, incarnation = unpack(ARGV)
local key = KEYS[1] .. 'worker:' .. name
if redis.call('HGET', key, 'incarnation') ~= incarnation then return 0 end
redis.call('DEL', key)
redis.call('SREM', KEYS[1] .. 'workers', name)
return 1
""")

_MEMBERS = Script("""
local time = redis.call('TIME')
redis.call('SET', KEYS[1] .. 'epoch', time[1] .. '.' .. time[2], 'NX')
local rows = {redis.call('GET', KEYS[1] .. 'epoch')}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1] .. 'workers')) do
  local key = KEYS[1] .. 'worker:' .. name
  local found = redis.call('HMGET', key, 'info', 'stats')
  if found[1] then
    rows[#rows + 1] = {found[1], found[2], redis.call('PTTL', key)}
  else
    redis.call('SREM', KEYS[1] .. 'workers', name)
  end
end
return rows
""")


class RedisRegistry:
    """Implements `Registry`. Each call is one round trip."""

    def __init__(self, connection: RedisConnection, clock: Clock, timeout_s: float) -> None:
        self.members_failed = 0
        self._connection = connection
        self._clock = clock
        self._timeout_s = timeout_s
        self._last: dict[str, tuple[float, Member]] = {}  # by name, with when it was heard
        self._epoch: bytes | None = None
        self._kept_until = clock.now()

    @classmethod
    async def open(
        cls, url: str, cluster: str, clock: Clock, *, timeout_s: float = HEARTBEAT_TIMEOUT_S
    ) -> "RedisRegistry":
        """Raises ConfigError if Redis cannot be used."""
        return cls(await RedisConnection.open(url, cluster), clock, timeout_s)

    async def announce(self, info: WorkerInfo) -> None:
        encoded, stats = msgspec.msgpack.encode(info), msgspec.msgpack.encode(WorkerStats())
        if not await self._connection.run(
            _ANNOUNCE, info.name, info.incarnation, encoded, stats, self._timeout_ms
        ):
            raise replaced(info.name, info.incarnation)

    async def heartbeat(self, name: str, incarnation: str, stats: WorkerStats) -> bool:
        encoded = msgspec.msgpack.encode(stats)
        return bool(
            await self._connection.run(_HEARTBEAT, name, incarnation, encoded, self._timeout_ms)
        )

    async def leave(self, name: str, incarnation: str) -> None:
        await self._connection.run(_LEAVE, name, incarnation)

    async def members(self) -> list[Member]:
        try:
            epoch, *rows = await self._connection.run(_MEMBERS)
        except Unavailable:
            self.members_failed += 1
            self._keep()
            return self._remembered()
        if self._epoch not in (None, epoch):
            self._keep()
        self._epoch = epoch
        now = self._clock.now()
        members = [member for row in rows if (member := self._member(row))]
        found = {member.info.name: (now - member.age_s, member) for member in members}
        if now < self._kept_until:
            found = self._last | found
        self._last = found
        return self._remembered()

    def _remembered(self) -> list[Member]:
        """Those last heard of; their age grows while nothing is heard."""
        now = self._clock.now()
        return in_order(
            [replace(member, age_s=now - heard_s) for heard_s, member in self._last.values()]
        )

    async def close(self) -> None:
        await self._connection.close()

    @property
    def _timeout_ms(self) -> int:
        return round(1000 * self._timeout_s)

    def _keep(self) -> None:
        """Workers could not be heard of lately; gives each the time to announce itself again."""
        self._kept_until = self._clock.now() + self._timeout_s

    def _member(self, row: list[Any]) -> Member | None:
        """None for a worker of another version, whose announcement means nothing here."""
        info, stats, left_ms = row
        try:
            return Member(
                msgspec.msgpack.decode(info, type=WorkerInfo),
                msgspec.msgpack.decode(stats, type=WorkerStats),
                max(0.0, self._timeout_s - left_ms / 1000),
            )
        except msgspec.ValidationError as error:
            log.warning("A worker's announcement was left out: %s", error)
            return None
