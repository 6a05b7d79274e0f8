"""A router from start to end: its parts connected to a cluster's Redis, served until told to stop.

Knows where things are (model folder, Redis); what they do is app.py's.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mserve.compiler.observe import Strategy
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.prefix_redis import RedisPrefixIndex
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.config import AdmissionOptions
from mserve.runtime.http_server import url_of
from mserve.runtime.router.app import create_router, serve_router
from mserve.runtime.router.client import HttpClient
from mserve.runtime.router.live import Language
from mserve.runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """`model` is a folder, of which the router reads the tokenizer only."""

    strategy: Strategy
    model: Path
    served_model: str
    redis: str
    cluster: str
    admission: AdmissionOptions = field(default_factory=AdmissionOptions)
    language: Language | None = None
    admin_token: str = ""


async def run_router(
    config: RouterConfig,
    listener: socket.socket,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves until `stop` is set; raises ConfigError if it cannot begin."""
    tokenizer = Tokenizer.load(config.model)
    clock = LoopClock()
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        registry = await RedisRegistry.open(config.redis, config.cluster, clock)
        stack.push_async_callback(registry.close)
        index = await RedisPrefixIndex.open(config.redis, config.cluster)
        stack.push_async_callback(index.close)
        client = HttpClient()
        stack.push_async_callback(client.close)
        router = create_router(
            config.strategy,
            registry,
            index,
            client,
            tokenizer,
            config.served_model,
            clock=clock,
            admission=config.admission,
            language=config.language,
            admin_token=config.admin_token,
        )
        serving = asyncio.create_task(serve_router(router, listener))
        stopping = asyncio.create_task(stop.wait())
        await router.fleet.changed()
        on_ready(url_of(listener))
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            for task in (serving, stopping):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
