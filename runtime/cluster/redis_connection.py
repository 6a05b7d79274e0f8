"""One connection pool to Redis, the scripts run over it, and what its failures mean.

While Redis is away every call fails at once for a short pause instead of waiting for a time-out,
so that serving without it stays fast. Knows no key but the prefix of the cluster's keys.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from mserve.runtime.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 16
_CLUSTER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Script:
    """A Lua script. Its first key is the cluster's prefix, from which it forms the others; the
    braces in the prefix keep all of them in one slot of a Redis Cluster."""

    text: str

    @cached_property
    def digest(self) -> str:
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """Runs scripts. Every call may be repeated once on a fresh connection, so scripts must give
    the same result when they are."""

    def __init__(self, client: Redis, prefix: str, address: str, pause_s: float) -> None:
        self._client = client
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._prefix = prefix
        self._address = address
        self._pause_s = pause_s
        self._paused_until = 0.0
        # First come, first served, which the pool's own limit is not.
        self._places = asyncio.Semaphore(_MAX_CONNECTIONS)

    @classmethod
    async def open(
        cls,
        url: str,
        cluster: str,
        *,
        timeout_s: float = 0.5,
        pause_s: float = 0.25,
    ) -> "RedisConnection":
        """Raises ConfigError if the URL or the cluster's name is malformed or nobody answers."""
        if not _CLUSTER.fullmatch(cluster):
            raise ConfigError(
                f"The cluster name {cluster!r} must be 1 to 64 letters, digits, '.', '_' or '-'."
            )
        try:
            address = _without_password(url)
            client = Redis.from_pool(_pool(url, timeout_s))
        except ValueError as error:
            raise ConfigError(f"The Redis URL of --redis is malformed: {error}") from None
        try:
            with _cancels_kept():
                await client.ping()
        except asyncio.CancelledError:
            await client.aclose()
            raise
        except (RedisError, OSError) as error:
            await client.aclose()
            raise ConfigError(
                f"Redis at {address} cannot be used: {error}. Start it, correct --redis, or leave "
                "--redis out to have mserve start its own."
            ) from None
        return cls(client, f"mserve:{{{cluster}}}:", address, pause_s)

    async def run(self, script: Script, *arguments: str | bytes | int) -> Any:
        """The script's reply. Raises Unavailable if there is none; it may have run all the same."""
        if asyncio.get_running_loop().time() < self._paused_until:
            raise Unavailable(f"Redis at {self._address} is out of reach.", retry_after_s=1)
        try:
            with _cancels_kept():
                async with self._places:
                    reply = await self._evaluate(script, arguments)
        except (RedisError, OSError) as error:
            self._lost(error)
            raise Unavailable(
                f"Redis at {self._address} is out of reach: {error}", retry_after_s=1
            ) from None
        if self._paused_until:
            log.warning("Redis at %s answers again", self._address)
            self._paused_until = 0.0
        return reply

    async def close(self) -> None:
        await self._client.aclose()

    async def _evaluate(self, script: Script, arguments: tuple[str | bytes | int, ...]) -> Any:
        try:
            return await self._execute("EVALSHA", script.digest, 1, self._prefix, *arguments)
        except NoScriptError:  # its first use, or Redis restarted
            return await self._execute("EVAL", script.text, 1, self._prefix, *arguments)

    def _lost(self, error: Exception) -> None:
        if not self._paused_until:
            log.warning("Redis at %s is out of reach: %s", self._address, error)
        self._paused_until = asyncio.get_running_loop().time() + self._pause_s


@contextmanager
def _cancels_kept() -> Iterator[None]:
    """Raises CancelledError after what was cancelled and went on all the same, as redis-py's client
    often does: whoever calls it again and again would never end."""
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    num_cancels = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > num_cancels:
            raise asyncio.CancelledError


def _pool(url: str, timeout_s: float) -> ConnectionPool:
    return ConnectionPool.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # One repetition at once: a pooled connection may have died while idle.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        protocol=2,
    )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
