"""A router from start to end: its parts connected to a cluster's Redis, served until told to stop.

Knows where things are (model folder, Redis); what they do is app.py's.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mserve.compiler.observe import Strategy
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.prefix_mirror import PrefixMirror
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.cluster.signing import CallSigner, derive
from mserve.runtime.config import AdmissionOptions, TrustOptions
from mserve.runtime.errors import ConfigError
from mserve.runtime.http_server import Tls, url_of
from mserve.runtime.router.app import create_router, serve_router
from mserve.runtime.router.client import HttpClient
from mserve.runtime.router.keys import KeyFile
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
    trust: TrustOptions = field(default_factory=TrustOptions)


async def run_router(
    config: RouterConfig,
    listener: socket.socket,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves until `stop` is set; raises ConfigError if it cannot begin."""
    trust, clock = config.trust, LoopClock()
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        tls = tls_of(trust)
        keys = KeyFile(trust.api_keys) if trust.api_keys else None
        tokenizer = Tokenizer.load(config.model)
        registry = await RedisRegistry.open(config.redis, config.cluster, clock)
        stack.push_async_callback(registry.close)
        index = await PrefixMirror.open(config.redis, config.cluster)
        stack.push_async_callback(index.close)
        client = _client(trust, clock)
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
            admin_token=trust.admin_token,
            keys=keys,
            salt_secret=derive(trust.cluster_token, "cache salts") if trust.cluster_token else b"",
        )
        router.metrics.metrics.gauge(
            "mserve_router_prefix_lookups",
            "Lookups in the prefix index, by who answered: its mirror here, or Redis.",
            "by",
            read=lambda: {("mirror",): index.lookups_here, ("redis",): index.lookups_by_redis},
        )
        serving = asyncio.create_task(serve_router(router, listener, tls))
        stopping = asyncio.create_task(stop.wait())
        await router.fleet.changed()
        on_ready(url_of(listener, scheme="https" if tls else "http"))
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            for task in (serving, stopping):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def tls_of(trust: TrustOptions) -> Tls | None:
    """What a server shows. Raises ConfigError for files that cannot be used."""
    if trust.tls_cert is None or trust.tls_key is None:
        return None
    tls = Tls(trust.tls_cert, trust.tls_key)
    tls.check()
    return tls


def _client(trust: TrustOptions, clock: LoopClock) -> HttpClient:
    """Raises ConfigError for a --tls-ca that is none."""
    signer = CallSigner(trust.cluster_token, clock.time) if trust.cluster_token else None
    try:
        context = ssl.create_default_context(cafile=trust.tls_ca) if trust.tls_ca else None
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--tls-ca {trust.tls_ca} cannot be used: {error}.") from None
    return HttpClient(signer=signer, tls=context)
