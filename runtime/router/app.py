"""The router as an HTTP server: puts its parts together and serves the OpenAI API and its own pages.

Everything that touches the world is given: registry, prefix index, worker client, tokenizer, clock.
"""

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from socket import socket

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from mserve.compiler.observe import Strategy
from mserve.runtime import http_server
from mserve.runtime.clock import Clock
from mserve.runtime.cluster.membership import PrefixIndex, Registry, WorkerInfo
from mserve.runtime.config import AdmissionOptions
from mserve.runtime.errors import Unavailable
from mserve.runtime.router.admission import Admission
from mserve.runtime.router.client import WorkerClient
from mserve.runtime.router.endpoints import GenerateEndpoint
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.gate import Gate
from mserve.runtime.router.history import History
from mserve.runtime.router.keys import KeyFile
from mserve.runtime.router.live import Adapter, Language, LiveStrategy
from mserve.runtime.router.operator import Operator
from mserve.runtime.router.pages import Pages, unknown_path, wrong_method
from mserve.runtime.router.placement import Placement, check_observes
from mserve.runtime.router.plans import PlanLog
from mserve.runtime.router.prompts import Tokenizer
from mserve.runtime.router.reservations import Reservations
from mserve.runtime.router.strategy_pages import StrategyPages
from mserve.runtime.router.telemetry import RouterMetrics
from mserve.runtime.router.worker_pages import WorkerPages

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20


def new_id() -> str:
    """Of a request or plan: milliseconds since 1970, then 128 random bits.

    Ids sort by age, which decides who gives way where plans wait for each other's pages; and who
    knows a plan's id may use its tickets.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Router:
    """A router's parts. `app` answers while `running()` keeps the view of the cluster fresh."""

    strategy: LiveStrategy
    adapter: Adapter
    model: str
    fleet: Fleet
    reservations: Reservations
    executor: Executor
    plans: PlanLog
    metrics: RouterMetrics
    app: ASGIApp

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.fleet.polling():
            try:
                with self.adapter.running():
                    yield
            finally:
                await self.executor.close()


def create_router(
    strategy: Strategy,
    registry: Registry,
    index: PrefixIndex,
    client: WorkerClient,
    tokenizer: Tokenizer,
    model: str,
    *,
    clock: Clock,
    new_id: Callable[[], str] = new_id,
    poll_s: float = 0.25,
    max_body_bytes: int = MAX_BODY_BYTES,
    admission: AdmissionOptions | None = None,
    language: Language | None = None,
    admin_token: str = "",
    keys: KeyFile | None = None,
    salt_secret: bytes = b"",
) -> Router:
    """Raises ConfigError if the strategy observes what a router cannot tell.

    Without `keys` everybody may ask. Routers with one `salt_secret` share what tenants have cached.
    What is passed in stays the caller's to close.
    """

    async def forget(info: WorkerInfo) -> None:
        try:
            await index.forget(info.name, info.incarnation)
        except Unavailable as error:
            log.warning("worker %s is not forgotten by the index: %s", info.name, error)

    fleet = Fleet(registry, clock, poll_s=poll_s, on_gone=forget)
    reservations, history, plans = Reservations(clock), History(clock), PlanLog()
    admitted = Admission(admission or AdmissionOptions(), clock.now)
    salt_secret = salt_secret or secrets.token_bytes(32)
    live = LiveStrategy(strategy, check_observes)
    metrics = RouterMetrics(fleet, reservations, admitted, live)
    placement = Placement(live, fleet, index, reservations, history)
    adapter = Adapter(live, placement.look, clock)
    executor = Executor(
        placement,
        live,
        fleet,
        client,
        reservations,
        history,
        plans,
        clock=clock,
        new_id=new_id,
        on_end=metrics.ended,
    )

    def generate(*, chat: bool) -> ASGIApp:
        return GenerateEndpoint(
            executor,
            admitted,
            fleet,
            tokenizer,
            model,
            metrics,
            chat=chat,
            clock=clock,
            new_id=new_id,
            max_body_bytes=max_body_bytes,
            salt_secret=salt_secret,
        )

    created = int(clock.time())
    pages = Pages(live, model, fleet, plans, metrics, reservations, created=created)
    operator = Operator(admin_token)
    changes = StrategyPages(live, adapter, language, lambda: pages.view().workers, operator)
    app: ASGIApp = Starlette(
        routes=[
            Route("/v1/completions", generate(chat=False), methods=["POST"]),
            Route("/v1/chat/completions", generate(chat=True), methods=["POST"]),
            *pages.routes(),
            *changes.routes(),
            *WorkerPages(fleet, client, operator).routes(),
        ],
        exception_handlers={404: unknown_path, 405: wrong_method},
    )
    if keys is not None:
        app = Gate(app, keys, admin_token)
    return Router(live, adapter, model, fleet, reservations, executor, plans, metrics, app)


async def serve_router(
    router: Router, listener: socket, tls: http_server.Tls | None = None
) -> None:
    """Serves until cancelled; requests that are running then have a few seconds to end."""
    async with router.running():
        await http_server.serve(router.app, listener, tls)
