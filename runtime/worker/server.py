"""A worker from start to end: engine process, HTTP front, membership.

Starts the engine process, announces the worker once it can serve, and leaves the cluster before it
stops. Ends with an error when the engine process does.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_S,
    PrefixIndex,
    Registry,
    WorkerInfo,
)
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.config import ClusterOptions, EngineOptions
from mserve.runtime.errors import ConfigError, MserveError
from mserve.runtime.http_server import bind, serve, url_of
from mserve.runtime.tokenizer import Tokenizer
from mserve.runtime.worker import ipc
from mserve.runtime.worker.announcer import Announcer
from mserve.runtime.worker.app import WorkerApp, create_app
from mserve.runtime.worker.engine_link import EngineLink

logger = logging.getLogger("mserve.worker")

HANG_S = 5.0  # an engine process that is silent for this long, and a few long steps, hangs
Connect = Callable[[], Awaitable[tuple[Registry, PrefixIndex]]]


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker. `name` is `pool-index`, unique in its cluster; routers reach it at `advertise`."""

    name: str
    pool: str
    engine: ipc.EngineConfig
    host: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""  # "" for `host`

    @classmethod
    def of(
        cls,
        name: str,
        pool: str,
        model: Path,
        engine: EngineOptions,
        default_threads: int,
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str = "",
    ) -> "WorkerConfig":
        """From an operator's options; draws the incarnation."""
        values = {field.name: getattr(engine, field.name) for field in fields(engine)}
        values["threads"] = engine.threads or default_threads
        config = ipc.EngineConfig(
            model=str(model), worker=name, incarnation=secrets.token_hex(8), **values
        )
        return cls(name, pool, config, host, port, advertise)


class EngineEnded(MserveError):
    """The engine process ended while serving; the worker cannot go on without it."""


async def run_worker(config: WorkerConfig, connect: Connect, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises ConfigError if it cannot start, EngineEnded later."""
    listener = bind(config.host, config.port)
    tokenizer = Tokenizer.load(config.engine.model)
    registry, index = await connect()
    announcer: Announcer | None = None

    def publish(event: ipc.Blocks) -> None:
        if announcer is not None:
            announcer.blocks_changed(event.events)

    link = EngineLink(publish)
    try:
        await _wait_for_name(registry, config.name)
        ready = await link.start(config.engine)
        info = _describe(config, ready, listener)
        limit_s = HANG_S + 4 * info.cost.prefill_time(config.engine.max_batch_tokens)
        announcer = Announcer(
            info,
            registry,
            index,
            snapshot=_snapshot(link),
            stats=lambda: link.stats.stats if link.silent_s < limit_s else None,
            greet=lambda peers: link.send(ipc.Greet(peers)),
        )
        app = create_app(WorkerApp(link, config.name, _identity(info), tokenizer.stream))
        for note in ready.notes:
            logger.warning("%s", note)
        logger.info("worker %s serves at %s", config.name, info.url)
        await announcer.join()
        await _serve(app, listener, announcer, link, stop)
    finally:
        listener.close()
        await link.stop()
        await registry.close()
        await index.close()


async def _wait_for_name(registry: Registry, name: str) -> None:
    """Until no worker of this name is alive: an earlier one that crashed is forgotten soon. Raises
    ConfigError for one that lives on, which this one would otherwise replace."""
    deadline = asyncio.get_running_loop().time() + HEARTBEAT_TIMEOUT_S + HEARTBEAT_INTERVAL_S
    while any(member.info.name == name for member in await registry.members()):
        if asyncio.get_running_loop().time() > deadline:
            raise ConfigError(
                f"A worker named {name} is alive in this cluster. Give this one another --name, or"
                " its cluster another --cluster-id."
            )
        await asyncio.sleep(0.1)


async def _serve(
    app: ASGIApp,
    listener: socket.socket,
    announcer: Announcer,
    link: EngineLink,
    stop: asyncio.Event,
) -> None:
    """Until `stop`, the engine's end, or a failure of the server or the announcer."""
    tasks = [
        asyncio.ensure_future(work)
        for work in (serve(app, listener), announcer.run(), link.closed.wait(), stop.wait())
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await announcer.leave()  # before the listener closes: routers must not come any more
        for task in done:
            task.result()
        if link.closed.is_set() and not stop.is_set():
            raise EngineEnded("The engine process ended; the log above says why.")
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, MserveError):
                await task


def _describe(config: WorkerConfig, ready: ipc.Ready, listener: socket.socket) -> WorkerInfo:
    return WorkerInfo(
        name=config.name,
        pool=config.pool,
        incarnation=config.engine.incarnation,
        url=url_of(listener, config.advertise),
        transport_address=ready.transport_address,
        layout=ready.layout,
        page_size=ready.page_size,
        num_pages=ready.num_pages,
        block_tokens=ready.page_size,
        max_model_len=ready.max_model_len,
        cost=ready.cost,
        pid=os.getpid(),
    )


def _identity(info: WorkerInfo) -> dict[str, object]:
    """What another router needs to name this worker as a receiver; the address as base64."""
    encoded = msgspec.json.decode(msgspec.json.encode(info))
    names = ("name", "pool", "incarnation", "transport_address", "page_size", "num_pages")
    return {name: encoded[name] for name in names} | {"fingerprint": info.layout.fingerprint}


def _snapshot(link: EngineLink) -> Callable[[], Awaitable[ipc.Snapshot]]:
    async def ask() -> ipc.Snapshot:
        answer = await link.ask(ipc.Resync)
        assert isinstance(answer, ipc.Snapshot), "Resync is answered by a snapshot"
        return answer

    return ask


def connect_redis(options: ClusterOptions) -> Connect:
    """How a worker reaches its cluster's registry and index."""

    async def connect() -> tuple[Registry, PrefixIndex]:
        registry = await RedisRegistry.open(options.redis, options.cluster, LoopClock())
        index = await RedisPrefixIndex.open(options.redis, options.cluster)
        return registry, index

    return connect
