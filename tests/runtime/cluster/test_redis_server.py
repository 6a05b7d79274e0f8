"""The server mserve starts for itself."""

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ResponseError

from mserve.runtime.cluster.redis_server import RedisServer, executables
from mserve.runtime.errors import ConfigError


def test_serves_until_stopped_and_leaves_no_port() -> None:
    async def main() -> int:
        async with await RedisServer.start() as server:
            client = Redis.from_url(server.url)
            assert await client.set("key", "value")
            with pytest.raises(ResponseError, match="unknown command"):
                await client.config_get("dir")
            await client.aclose()
            return server.port

    port = asyncio.run(main())
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_that_dies_is_replaced_on_its_port() -> None:
    async def main() -> None:
        async with await RedisServer.start() as server:
            client = Redis.from_url(server.url, retry=Retry(ConstantBackoff(0.05), 100))
            await client.set("key", "value")
            os.kill(server.pid, signal.SIGKILL)
            assert await client.get("key") is None
            await client.aclose()

    asyncio.run(main())


def test_a_server_that_cannot_be_replaced_at_once_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launch, failures = RedisServer._launch, [ConfigError("killed as it started")] * 2

    async def unlucky(server: RedisServer) -> None:
        if failures:
            raise failures.pop()
        await launch(server)

    async def main() -> None:
        async with await RedisServer.start() as server:
            monkeypatch.setattr(RedisServer, "_launch", unlucky)
            client = Redis.from_url(server.url, retry=Retry(ConstantBackoff(0.05), 100))
            os.kill(server.pid, signal.SIGKILL)
            assert await client.get("key") is None
            await client.aclose()

    asyncio.run(main())
    assert caplog.text.count("could not be started again: killed as it started") == 2


def test_stopped_while_it_is_being_replaced() -> None:
    async def main() -> int:
        async with await RedisServer.start() as server:
            os.kill(server.pid, signal.SIGKILL)
            while server._relaunch is None:  # noqa: ASYNC110  (the kernel reports it)
                await asyncio.sleep(0)
            return server.port

    port = asyncio.run(main())
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def main() -> list[str]:
        async with await RedisServer.start():
            return os.listdir(tmp_path)

    assert asyncio.run(main()) == []


def test_a_taken_port_is_a_config_error_with_the_servers_own_words() -> None:
    async def main() -> None:
        async with await RedisServer.start() as server:
            await RedisServer.start(server.port)

    with pytest.raises(ConfigError, match=r"Address already in use|bind: "):
        asyncio.run(main())


def test_prefers_the_path_and_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text(f"#!{sys.executable}\nraise SystemExit('this one is broken')\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert next(executables()) == str(broken)

    async def main() -> str:
        async with await RedisServer.start() as server:
            return server.executable

    assert asyncio.run(main()) != str(broken)
    with pytest.raises(ConfigError, match="this one is broken"):
        asyncio.run(RedisServer.start(executable=str(broken)))


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mserve.runtime.cluster.redis_server.executables", lambda: iter(()))
    with pytest.raises(ConfigError, match="Install redis-server or give --redis"):
        asyncio.run(RedisServer.start())
