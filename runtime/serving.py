"""`mserve serve`: a cluster on one machine from one strategy file. Starts what is needed, in order:
Redis (unless one is given), the workers of every pool, the router; stops everything together. A worker
that dies is started again.

The workers are processes of their own; the router runs in this one.
"""

import asyncio
import logging
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from mserve.compiler.observe import Strategy
from mserve.compiler.plan import PoolSpec
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.launch import Child, ChildExit
from mserve.runtime.cluster.membership import Member
from mserve.runtime.cluster.redis_server import RedisServer
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.cluster.restart import Restarter
from mserve.runtime.config import (
    CLUSTER_TOKEN,
    EngineOptions,
    ServeOptions,
    TrustOptions,
    threads_per_worker,
)
from mserve.runtime.engine.pool_settings import host_cache_bytes, with_settings
from mserve.runtime.errors import ConfigError, Unavailable
from mserve.runtime.http_server import bind
from mserve.runtime.router.live import Language
from mserve.runtime.router.server import RouterConfig, run_router

logger = logging.getLogger("mserve.serve")

_ASK_AGAIN_S = 0.5


async def serve_cluster(
    strategy: Strategy,
    options: ServeOptions,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] = lambda url: None,
    language: Language | None = None,
) -> None:
    """Serves until `stop`. Calls `on_ready` with the router's URL. Raises ConfigError."""
    options = replace(options, trust=_with_token(options.trust))
    children = _plan_workers(strategy, options)
    listener = bind(options.host, options.port)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        redis = options.cluster.redis
        if not redis:
            redis = (await stack.enter_async_context(await RedisServer.start())).url
        registry = await RedisRegistry.open(redis, options.cluster.cluster, LoopClock())
        stack.push_async_callback(registry.close)

        async def forget(exit_: ChildExit) -> None:
            await _forget(exit_, registry)

        workers = await stack.enter_async_context(Restarter(logger, on_exit=forget))
        await workers.start(
            [_worker(*child, redis, options, registry, workers) for child in children]
        )
        config = RouterConfig(
            strategy=strategy,
            model=options.model,
            served_model=options.served_model,
            redis=redis,
            cluster=options.cluster.cluster,
            admission=options.admission,
            language=language,
            trust=options.trust,
        )
        await run_router(config, listener, stop, on_ready)


def _with_token(trust: TrustOptions) -> TrustOptions:
    """These workers are this process's own: without a token from outside they get one nobody knows,
    so that no stranger on this host can call them."""
    return replace(trust, cluster_token=trust.cluster_token or secrets.token_hex(32))


def _plan_workers(strategy: Strategy, options: ServeOptions) -> list[tuple[str, EngineOptions]]:
    """The name and the engine of every worker to start, pool by pool."""
    counts = {pool.name: options.workers.get(pool.name, pool.workers) for pool in strategy.pools}
    for name in options.workers:
        if name not in counts:
            known = ", ".join(counts)
            raise ConfigError(f"Strategy '{strategy.name}' has no pool '{name}'; it has {known}.")
    threads = options.engine.threads or threads_per_worker(sum(counts.values()))
    planned: list[tuple[str, EngineOptions]] = []
    first_gpu = 0
    for pool in strategy.pools:
        for index in range(counts[pool.name]):
            base = replace(options.engine, threads=threads, gpus=pool.gpus, first_gpu=first_gpu)
            planned.append((f"{pool.name}-{index}", _engine(pool, base)))
            first_gpu += pool.gpus
    return planned


def _engine(pool: PoolSpec, options: EngineOptions) -> EngineOptions:
    """What the strategy says of a pool goes before the command line."""
    options = with_settings(options, pool)
    host_bytes = host_cache_bytes(pool)
    return options if host_bytes is None else replace(options, host_cache_bytes=host_bytes)


def _worker(
    name: str,
    engine: EngineOptions,
    redis: str,
    options: ServeOptions,
    registry: RedisRegistry,
    workers: Restarter,
) -> Child:
    arguments = {
        "--name": name,
        "--pool": name.rpartition("-")[0],
        "--model": options.model,
        "--redis": redis,
        "--cluster-id": options.cluster.cluster,
        "--device": engine.device,
        "--dtype": engine.dtype,
        "--gpus": engine.gpus,
        "--first-gpu": engine.first_gpu,
        "--load": engine.load,
        "--page-size": engine.page_size,
        "--kv-memory": engine.kv_memory_bytes,
        "--gpu-memory-share": engine.gpu_memory_share,
        "--host-cache": engine.host_cache_bytes,
        "--queue": engine.queue,
        "--queue-groups": engine.queue_groups,
        "--batch": engine.batch,
        "--spread": engine.spread,
        "--patience": f"{engine.patience_s:.9f}s",
        "--fill": engine.fill,
        "--max-model-len": engine.max_model_len,
        "--max-batch-tokens": engine.max_batch_tokens,
        "--chunk-tokens": engine.chunk_tokens,
        "--max-running": engine.max_running,
        "--max-sequences": engine.max_sequences,
        "--threads": engine.threads,
        "--cost-cache": engine.cost_cache or "none",
    }
    argv = [sys.executable, "-m", "mserve", "worker"]
    for flag, value in arguments.items():
        if value is not None:
            argv += [flag, str(value)]
    if engine.checksum_kv:
        argv.append("--checksum-kv")
    argv.append("--overlap" if engine.overlap else "--no-overlap")
    if not engine.prefix_cache:
        argv.append("--no-prefix-cache")

    async def has_joined() -> bool:
        """Not one of that name which an earlier run has left in a Redis elsewhere."""
        pids = {member.info.name: member.info.pid for member in await registry.members()}
        return pids.get(name) == workers.pid(name)

    # One arena of the allocator per thread would multiply the memory of torch's buffers.
    env = {"OMP_NUM_THREADS": str(engine.threads), "MALLOC_ARENA_MAX": "2"}
    env[CLUSTER_TOKEN] = options.trust.cluster_token  # other users cannot read the environment
    log = options.log_dir / f"{name}.log" if options.log_dir else None
    return Child(name, argv, env, ready=has_joined, log=log)


async def _forget(exit_: ChildExit, registry: RedisRegistry) -> None:
    """Routers need not wait for the heartbeats that a dead worker misses, nor its successor for the
    name. Returns once Redis can be reached, as no worker can start without it."""
    gone = [m.info for m in await _members_now(registry) if m.info.pid == exit_.pid]
    try:
        for info in gone:
            if info.name == exit_.name:
                await registry.leave(info.name, info.incarnation)
    except Unavailable as error:
        logger.warning("worker %s is still announced: %s", exit_.name, error)


async def _members_now(registry: RedisRegistry) -> Sequence[Member]:
    """Asks until the registry answers from Redis, not from what it remembers."""
    while True:
        num_failed = registry.members_failed
        members = await registry.members()
        if registry.members_failed == num_failed:
            return members
        await asyncio.sleep(_ASK_AGAIN_S)
