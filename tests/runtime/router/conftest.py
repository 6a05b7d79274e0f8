"""A router without a network: strategies by a function, sinks that keep everything, and whole requests
through the executor or over HTTP. The workers are those of ../conftest.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import httpx
import pytest

from mserve.compiler.observe import Observations
from mserve.compiler.plan import (
    Decision,
    LimitsSpec,
    ParamSpec,
    Plan,
    PoolSpec,
    PrepRecv,
    RemoteSend,
    SloSpec,
    StartGenerate,
    Step,
)
from mserve.runtime import http_server
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.messages import Finish, Render, Sampling, pack_tokens
from mserve.runtime.router.app import Router, create_router, serve_router
from mserve.runtime.router.client import InProcessClient
from mserve.runtime.router.requests import GenerationRequest

PROMPT = tuple(range(100, 140))


@dataclass
class FakeStrategy:
    """Plans by a function from the view to steps; None where no route is possible."""

    steps: Callable[[Observations], Sequence[Step] | None]
    pools: tuple[PoolSpec, ...] = (PoolSpec("workers"),)
    limits: LimitsSpec = LimitsSpec(timeout_s=5.0, retries=2)  # noqa: RUF009
    slo: SloSpec = SloSpec()  # noqa: RUF009
    observes: frozenset[str] = frozenset()
    name: str = "fake"
    version: int = 1
    route: str = "only"
    turns: tuple[int, ...] = ()
    params: dict[str, ParamSpec] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    adaptations: tuple[Any, ...] = ()

    def set_param(self, name: str, value: float) -> None:
        self.values[name] = value

    def spell(self, name: str, value: float) -> str:
        return f"{value:g}"

    def adapt(self, view: Observations, only: Any = None) -> dict[str, float]:
        return {}

    def decide(self, view: Observations) -> Decision | None:
        steps = self.steps(view)
        if steps is None:
            return None
        plan = Plan(self.name, self.route, view.num_tokens, tuple(steps))
        return Decision(plan, {"d": steps[-1].worker}, ((self.route, None),), turns=self.turns)


def generate_on_first(view: Observations) -> Sequence[Step] | None:
    """Data parallel: the first worker there is."""
    workers = view.workers("workers")
    return [StartGenerate("s1", workers[0], 0)] if workers else None


def split(view: Observations) -> Sequence[Step] | None:
    """Prefill and decode apart: all but the last token on `prefill`."""
    prefill, decode = view.workers("prefill"), view.workers("decode")
    if not prefill or not decode:
        return None
    cut = view.num_tokens - 1
    return [
        PrepRecv("s1", decode[0], 0, cut, "t1"),
        RemoteSend("s2", prefill[0], 0, cut, ("t1",)),
        StartGenerate("s3", decode[0], cut, ("t1",)),
    ]


PREFILL_DECODE = (PoolSpec("prefill"), PoolSpec("decode"))


@dataclass
class Collected:
    """A sink that keeps everything."""

    payloads: list[bytes] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    plan_id: str = ""
    finished: Finish | None = None
    on_tokens: Callable[[], None] = lambda: None

    def placed(self, plan_id: str, route: str, version: int) -> None:
        self.plan_id = plan_id
        self.routes.append(route)

    async def tokens(self, payload: bytes) -> None:
        self.payloads.append(payload)
        self.on_tokens()

    async def finish(self, finish: Finish) -> None:
        self.finished = finish

    @property
    def generated(self) -> list[int]:
        return [int(token) for token in b"".join(self.payloads).split()]


class Kit:
    """What a test needs of this file and of the workers, by one fixture."""

    PROMPT = PROMPT
    PREFILL_DECODE = PREFILL_DECODE
    Strategy = FakeStrategy
    Collected = Collected
    generate_on_first = staticmethod(generate_on_first)
    split = staticmethod(split)

    def __init__(self, workers: Any) -> None:
        self.MODEL, self.COST, self.Script = workers.MODEL, workers.COST, workers.Script
        self.Tokenizer, self.cluster = workers.Tokenizer, workers.cluster
        self.expected_tokens, self.next_token = workers.expected_tokens, workers.next_token
        self.tokens_frame, self.finish_frame = workers.tokens_frame, workers.finish_frame

    def request(
        self, prompt: Sequence[int] = PROMPT, max_tokens: int = 8, **sampling: Any
    ) -> GenerationRequest:
        return GenerationRequest(
            "r1", pack_tokens(list(prompt)), Sampling(max_tokens, **sampling), Render()
        )

    def router(self, cluster: Any, strategy: Any, *, client: Any = None, **options: Any) -> Router:
        return create_router(
            strategy,
            cluster,
            options.pop("index", None) or MemoryPrefixIndex(),
            client or InProcessClient(cluster.serve),
            self.Tokenizer(),
            self.MODEL,
            clock=LoopClock(),
            poll_s=0.02,
            **options,
        )

    def execute(
        self,
        cluster: Any,
        strategy: Any,
        request: GenerationRequest | None = None,
        sink: Any = None,
        **options: Any,
    ) -> tuple[Any, Router]:
        """One request without HTTP, of `PROMPT` unless another is given; (its sink, the router)."""

        async def main() -> tuple[Any, Router]:
            router = self.router(cluster, strategy, **options)
            out = sink or Collected()
            async with router.running():
                await router.executor.execute(request or self.request(), out)
                return out, router

        return asyncio.run(main())

    def serve(
        self,
        use: Callable[[httpx.AsyncClient, Any, Any], Awaitable[Any]],
        *,
        cluster: Any = None,
        strategy: Any = None,
        **options: Any,
    ) -> Any:
        """Runs `use(client, cluster, router)` against a router on a real socket, with one worker unless
        a cluster is given; in the end nothing may be reserved."""

        async def main() -> Any:
            workers = cluster or self.cluster("workers-0")
            router = self.router(workers, strategy or FakeStrategy(generate_on_first), **options)
            async with (
                self.serving(router) as url,
                httpx.AsyncClient(base_url=url, timeout=10) as client,
            ):
                result = await use(client, workers, router)
                await self.until(lambda: self.idle(router))
                return result

        return asyncio.run(main())

    @staticmethod
    @asynccontextmanager
    async def serving(router: Router) -> AsyncIterator[str]:
        """Serves on a real socket; gives the base URL."""
        listener = http_server.bind("127.0.0.1", 0)
        listener.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # uvloop does; these tests run without
        server = asyncio.create_task(serve_router(router, listener))
        try:
            await Kit.until(lambda: bool(router.fleet.snapshot.members) or server.done())
            yield http_server.url_of(listener)
        finally:
            server.cancel()
            with suppress(asyncio.CancelledError):
                await server
            listener.close()

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Lets everything run until `condition` holds."""
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)

    @staticmethod
    def idle(router: Router) -> bool:
        """No reservation is left anywhere."""
        return all(
            (load.prefill_ns, load.decode_ns, load.requests, load.kv_tokens) == (0, 0, 0, 0)
            for load in router.reservations.loads().values()
        )


@pytest.fixture
def kit(workers: Any) -> Kit:
    return Kit(workers)
