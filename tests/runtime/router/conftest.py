"""A cluster in one process: workers whose "model" is a hash of all tokens so far, so that the same
prompt and the same tokens always go on the same way, and failures by script."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

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
from mserve.runtime.chunks import chunk
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import KvLayout, Member, WorkerInfo, WorkerStats
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import RequestError, WorkerLost
from mserve.runtime.messages import (
    Finish,
    Frame,
    FrameKind,
    PlanCall,
    PrepRecvCall,
    Problem,
    RemoteSendCall,
    Render,
    Sampling,
    StartGenerateCall,
    StepReport,
    encode,
    pack_tokens,
    unpack_tokens,
)
from mserve.runtime.router.app import Router, create_router, serve_router
from mserve.runtime.router.client import InProcessClient
from mserve.runtime.router.requests import GenerationRequest

VOCABULARY = 1000
MODEL = "tiny"
COST = CostProfile(
    prefill_base_s=0.001,
    prefill_token_s=0.0001,
    prefill_pair_s=0.0,
    decode_base_s=0.01,
    decode_sequence_s=0.0,
    transfer_base_s=0.0,
    transfer_bytes_per_s=1e9,
    kv_bytes_per_token=1000,
)
LAYOUT = KvLayout(model=MODEL, weights="w", dtype="float32", num_layers=4, kv_heads=2, head_dim=64)


def next_token(tokens: Sequence[int]) -> int:
    digest = hashlib.blake2b(pack_tokens(list(tokens)), digest_size=4).digest()
    return int.from_bytes(digest, "little") % VOCABULARY


def expected_tokens(prompt: Sequence[int], count: int) -> list[int]:
    """What every undisturbed answer to `prompt` is."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class FakeTokenizer:
    """One token per character; a chat is the messages' texts, each after a 1."""

    vocab_size = VOCABULARY

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        return [ord(character) % VOCABULARY for character in text]

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return [token for message in messages for token in [1, *self.encode(str(message))]]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


@dataclass
class Script:
    """How a worker misbehaves, the next `times` calls."""

    refuse: RequestError | None = None
    fail: RequestError | None = None  # a PROBLEM frame at a send
    fail_late: RequestError | None = None  # the same, a moment after it has sent
    lose_after: int | None = None  # the connection breaks after so many tokens
    hang_after: int | None = None
    times: int = 1


@dataclass
class FakeWorker:
    info: WorkerInfo
    stats: WorkerStats = WorkerStats(kv_total_tokens=10_000)  # noqa: RUF009
    script: Script | None = None
    calls: list[PlanCall] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0


@dataclass
class FakeCluster:
    """The registry, the worker side and the tickets between workers."""

    workers: dict[str, FakeWorker] = field(default_factory=dict)
    arrived: dict[str, asyncio.Event] = field(default_factory=dict)
    token_delay_s: float = 0.0

    def add(self, name: str, *, max_model_len: int = 4096) -> FakeWorker:
        info = WorkerInfo(
            name=name,
            pool=name.rpartition("-")[0],
            incarnation=f"{name}.1",
            url=f"http://{name}",
            transport_address=name.encode(),
            layout=LAYOUT,
            page_size=16,
            num_pages=1000,
            block_tokens=16,
            max_model_len=max_model_len,
            cost=COST,
        )
        self.workers[name] = FakeWorker(info)
        return self.workers[name]

    # Registry

    async def announce(self, info: WorkerInfo) -> None: ...

    async def heartbeat(self, name: str, incarnation: str, stats: WorkerStats) -> bool:
        return True

    async def leave(self, name: str, incarnation: str) -> None:
        self.workers.pop(name)

    async def members(self) -> list[Member]:
        return [Member(worker.info, worker.stats, 0.5) for worker in self.workers.values()]

    async def close(self) -> None: ...

    # WorkerClient

    async def serve(self, info: WorkerInfo, call: PlanCall) -> AsyncGenerator[Frame, None]:
        if info.name not in self.workers:
            raise WorkerLost(f"worker {info.name} is lost: connection refused")
        worker = self.workers[info.name]
        worker.calls.append(call)
        worker.running += 1
        script = worker.script or Script()
        if worker.script is not None:
            script.times -= 1
            worker.script = script if script.times else None
        if script.refuse is not None:
            worker.running -= 1
            raise script.refuse
        done = False
        try:
            for step in call.steps:
                async for frame in self._step(worker, call, step, script):
                    yield frame
            done = True
        finally:
            worker.running -= 1
            worker.cancelled += not done

    async def _step(
        self, worker: FakeWorker, call: PlanCall, step: Any, script: Script
    ) -> AsyncGenerator[Frame, None]:
        name = worker.info.name
        if isinstance(step, StartGenerateCall):
            async for frame in self._generate(worker, call, step, script):
                yield frame
            return
        yield report(step.step, "running")
        if isinstance(step, RemoteSendCall):
            await self._wait(step.uses)
            if script.fail is not None:
                yield problem(script.fail, step.step)
                return
            if script.lose_after is not None:
                raise WorkerLost(f"worker {name} is lost")
            if script.hang_after is not None:
                await asyncio.Event().wait()
            for receiver in step.to:
                self._ticket(receiver.ticket).set()
            if script.fail_late is not None:
                await asyncio.sleep(0.05)
                yield problem(script.fail_late, step.step)
                return
            size = step.end - step.begin
            yield report(step.step, "done", computed=size, sent=size, sent_bytes=size * 1000)
        elif isinstance(step, PrepRecvCall):
            await asyncio.sleep(0)
            yield report(step.step, "done", received=step.end - step.begin)
        else:
            yield report(step.step, "done")

    async def _generate(
        self, worker: FakeWorker, call: PlanCall, step: StartGenerateCall, script: Script
    ) -> AsyncGenerator[Frame, None]:
        yield report(step.step, "running")
        await self._wait(step.uses)
        tokens = list(unpack_tokens(call.tokens))
        limit = step.sampling.max_tokens
        for number in range(limit):
            if script.lose_after == number:
                raise WorkerLost(f"worker {worker.info.name} is lost")
            if script.hang_after == number:
                await asyncio.Event().wait()
            await asyncio.sleep(self.token_delay_s)
            tokens.append(next_token(tokens))
            reason = "length" if number + 1 == limit else None
            payload = chunk(step.render, f" {tokens[-1]}", reason, first=number == 0)
            yield Frame(FrameKind.TOKENS, pack_tokens(tokens[-1:]), payload)
        num_prompt = len(call.tokens) // 4
        cached = step.begin if step.uses else 0
        yield Frame(FrameKind.FINISH, payload=encode(Finish("length", num_prompt, limit, cached)))
        yield report(step.step, "done", computed=num_prompt - cached, generated=limit)

    async def _wait(self, tickets: Sequence[str]) -> None:
        for ticket in tickets:
            await self._ticket(ticket).wait()

    def _ticket(self, name: str) -> asyncio.Event:
        return self.arrived.setdefault(name, asyncio.Event())


def report(step: str, state: Any, **counts: int) -> Frame:
    now = LoopClock().time()
    ended = now if state == "done" else 0.0
    return Frame(FrameKind.STEP, payload=encode(StepReport(step, state, now, ended, **counts)))


def problem(error: RequestError, step: str = "") -> Frame:
    return Frame(FrameKind.PROBLEM, payload=encode(Problem.of(error, step)))


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
    """What a test needs of this file, by one fixture."""

    MODEL = MODEL
    COST = COST
    PREFILL_DECODE = PREFILL_DECODE
    Script = Script
    Strategy = FakeStrategy
    Collected = Collected
    Tokenizer = FakeTokenizer
    generate_on_first = staticmethod(generate_on_first)
    split = staticmethod(split)
    expected_tokens = staticmethod(expected_tokens)
    next_token = staticmethod(next_token)

    @staticmethod
    def cluster(*names: str) -> FakeCluster:
        cluster = FakeCluster()
        for name in names:
            cluster.add(name)
        return cluster

    @staticmethod
    def request(prompt: Sequence[int], max_tokens: int = 8, **sampling: Any) -> GenerationRequest:
        return GenerationRequest(
            "r1", pack_tokens(list(prompt)), Sampling(max_tokens, **sampling), Render()
        )

    @staticmethod
    def router(
        cluster: FakeCluster, strategy: Any, *, client: Any = None, **options: Any
    ) -> Router:
        return create_router(
            strategy,
            cluster,
            options.pop("index", None) or MemoryPrefixIndex(),
            client or InProcessClient(cluster.serve),
            FakeTokenizer(),
            MODEL,
            clock=LoopClock(),
            poll_s=0.02,
            **options,
        )

    @staticmethod
    def tokens_frame(token: int, text: str) -> Frame:
        return Frame(FrameKind.TOKENS, pack_tokens([token]), text.encode())

    @staticmethod
    def finish_frame(num_prompt: int, num_output: int) -> Frame:
        finish = Finish("length", num_prompt, num_output, 0)
        return Frame(FrameKind.FINISH, payload=encode(finish))

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
def kit() -> type[Kit]:
    return Kit
