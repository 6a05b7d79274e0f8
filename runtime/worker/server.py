"""A worker from start to end: engine process, HTTP front, membership.

Starts the engine process, announces the worker once it can serve, finishes what runs before it leaves
the cluster and stops. Ends with an error when the engine process does.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
from starlette.types import ASGIApp

from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_S,
    PrefixIndex,
    Registry,
    WorkerInfo,
    WorkerStats,
)
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.config import ClusterOptions, EngineOptions, TrustOptions, is_loopback
from mserve.runtime.errors import ConfigError, MserveError
from mserve.runtime.http_server import Tls, bind, serve, url_of
from mserve.runtime.messages import Receiver
from mserve.runtime.tokenizer import Tokenizer
from mserve.runtime.worker import ipc
from mserve.runtime.worker.announcer import Announcer
from mserve.runtime.worker.app import MAX_BODY_BYTES, WorkerApp, create_app
from mserve.runtime.worker.engine_link import EngineLink
from mserve.runtime.worker.gate import Gate
from mserve.runtime.worker.mlc import MlcCalls

logger = logging.getLogger("mserve.worker")

DRAIN_TIMEOUT_S = 30.0  # for what runs, once told to stop; after that other workers take it up
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
    trust: TrustOptions = field(default_factory=TrustOptions)

    @property
    def tls(self) -> Tls | None:
        """What the worker shows its callers."""
        certificate, key = self.trust.tls_cert, self.trust.tls_key
        return Tls(certificate, key) if certificate and key else None

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
        trust: TrustOptions | None = None,
    ) -> "WorkerConfig":
        """From an operator's options; draws the incarnation."""
        values = {each.name: getattr(engine, each.name) for each in fields(engine)}
        values["threads"] = engine.threads or default_threads
        config = ipc.EngineConfig(
            model=str(model),
            worker=name,
            incarnation=secrets.token_hex(8),
            loopback_only=is_loopback(host) and not advertise,
            **values,
        )
        return cls(name, pool, config, host, port, advertise, trust or TrustOptions())


class EngineEnded(MserveError):
    """The engine process ended while serving; the worker cannot go on without it."""


async def run_worker(config: WorkerConfig, connect: Connect, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Raises ConfigError if it cannot start, EngineEnded later."""
    if config.tls is not None:
        config.tls.check()
    listener = bind(config.host, config.port)
    tokenizer = Tokenizer.load(config.engine.model)
    registry, index = await connect()
    announcer: Announcer | None = None

    def publish(event: ipc.Blocks) -> None:
        if announcer is not None:
            announcer.blocks_changed(event.events)

    link, draining = EngineLink(publish), asyncio.Event()
    try:
        await _wait_for_name(registry, config.name)
        ready = await link.start(config.engine)
        info = _describe(config, ready, listener)
        announcer = _announcer(info, registry, index, link, draining)
        app = _app(info, link, tokenizer, draining, config.trust.cluster_token)
        for note in ready.notes:
            logger.warning("%s", note)
        logger.info("worker %s serves at %s", config.name, info.url)
        await announcer.join()
        await _serve(serve(app, listener, config.tls), announcer, link, draining, stop)
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


def _announcer(
    info: WorkerInfo,
    registry: Registry,
    index: PrefixIndex,
    link: EngineLink,
    draining: asyncio.Event,
) -> Announcer:
    def stats() -> WorkerStats | None:
        if link.silence or link.closed.is_set():
            return None
        return msgspec.structs.replace(link.stats.stats, draining=draining.is_set())

    async def snapshot() -> ipc.Snapshot:
        answer = await link.ask(ipc.Resync)
        assert isinstance(answer, ipc.Snapshot), "Resync is answered by a snapshot"
        return answer

    def greet(peers: tuple[bytes, ...]) -> None:
        link.send(ipc.Greet(peers))

    return Announcer(info, registry, index, snapshot=snapshot, stats=stats, greet=greet)


def _app(
    info: WorkerInfo,
    link: EngineLink,
    tokenizer: Tokenizer,
    draining: asyncio.Event,
    token: str,
) -> ASGIApp:
    """With the cluster's `token`, only its members are let in."""
    worker = WorkerApp(link, info.name, _identity(info), tokenizer.stream, draining)
    app = create_app(worker, _mlc_calls(worker, info, tokenizer).handlers())
    return Gate(app, token, info.name, LoopClock().time, MAX_BODY_BYTES) if token else app


async def _serve(
    serving: Coroutine[Any, Any, None],
    announcer: Announcer,
    link: EngineLink,
    draining: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Until the worker has been drained, the engine's end, or a failure of the server or the
    announcer."""
    works = (
        serving,
        announcer.run(),
        link.watch(announcer.stats_changed),
        link.closed.wait(),
        _drain(link, announcer, draining, stop),
    )
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await announcer.leave()  # before the listener closes: routers must not come any more
        for task in done:
            task.result()
        if link.closed.is_set() and not stop.is_set():
            raise EngineEnded(await link.end())
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, MserveError):
                await task


async def _drain(
    link: EngineLink, announcer: Announcer, draining: asyncio.Event, stop: asyncio.Event
) -> None:
    """Once the worker shall drain or stop: takes no new plans, and returns when it has none left,
    or `DRAIN_TIMEOUT_S` after `stop`."""

    async def told_to_stop() -> None:
        await stop.wait()
        await asyncio.sleep(DRAIN_TIMEOUT_S)

    await _first(stop.wait(), draining.wait())
    draining.set()
    announcer.stats_changed()
    logger.info("draining: %d plans go on", link.stats.stats.running + link.stats.stats.waiting)
    await _first(link.drained(), told_to_stop())


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Returns, or raises, when one of them does; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def _describe(config: WorkerConfig, ready: ipc.Ready, listener: socket.socket) -> WorkerInfo:
    return WorkerInfo(
        name=config.name,
        pool=config.pool,
        incarnation=config.engine.incarnation,
        url=url_of(listener, config.advertise, "https" if config.tls else "http"),
        transport_address=ready.transport_address,
        layout=ready.layout,
        page_size=ready.page_size,
        num_pages=ready.num_pages,
        block_tokens=ready.page_size,
        max_model_len=ready.max_model_len,
        cost=ready.cost,
        pid=os.getpid(),
        gpus=config.engine.gpus,
        max_batch_tokens=config.engine.max_batch_tokens,
        chunk_tokens=config.engine.chunk_tokens,
        max_running=config.engine.max_running,
    )


def _identity(info: WorkerInfo) -> dict[str, object]:
    """What another router needs to name this worker as a receiver; the address as base64."""
    encoded = msgspec.json.decode(msgspec.json.encode(info))
    names = ("name", "pool", "incarnation", "transport_address", "page_size", "num_pages")
    return {name: encoded[name] for name in names} | {"fingerprint": info.layout.fingerprint}


def _mlc_calls(worker: WorkerApp, info: WorkerInfo, tokenizer: Tokenizer) -> MlcCalls:
    identity = Receiver(
        ticket="",
        worker=info.name,
        incarnation=info.incarnation,
        address=info.transport_address,
        fingerprint=info.layout.fingerprint,
    )
    encode = tokenizer.encode
    return MlcCalls(worker.prepare, worker.run_plan, encode, identity, info.max_model_len)


def connect_redis(options: ClusterOptions) -> Connect:
    """How a worker reaches its cluster's registry and index."""

    async def connect() -> tuple[Registry, PrefixIndex]:
        registry = await RedisRegistry.open(options.redis, options.cluster, LoopClock())
        index = await RedisPrefixIndex.open(options.redis, options.cluster)
        return registry, index

    return connect
