"""The probes against a router of known costs, in virtual time: they find them."""

import asyncio
from dataclasses import dataclass, field

import msgspec
import pytest
from msgspec.structs import replace

from mserve.runtime.clock import Clock
from mserve.runtime.cluster.view import ClusterView, PoolView, WorkerView
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.probing import Probes
from mserve.runtime.simulator.profile import Profile
from mserve.runtime.traffic.answers import AnswerReader
from mserve.runtime.traffic.client import Client, Server
from mserve.runtime.traffic.model import ServedModel
from mserve.runtime.traffic.prompts import Vocabulary

COST = CostProfile(10e-3, 2e-4, 0.0, 8e-3, 5e-4, 1e-3, 1e9, 1000)
REQUEST_S = 3e-3
WORKER = WorkerView(
    name="workers-0",
    pool="workers",
    state="ready",
    url="",
    incarnation="a",
    heard_s=0.1,
    model="m",
    layout="m:1x1x1",
    dtype="float32",
    gpus=1,
    page_size=16,
    block_tokens=16,
    max_model_len=1100,
    running=0,
    waiting=0,
    tickets=0,
    load_s=0.0,
    kv_used_tokens=0,
    kv_cached_tokens=0,
    kv_total_tokens=8192,
    num_pages=512,
    num_layers=2,
    max_batch_tokens=2048,
    chunk_tokens=2048,
    max_running=8,
    cost=COST,
)
VIEW = ClusterView(
    "turns", "m", (PoolView("workers", 2),), (WORKER, replace(WORKER, name="workers-1"))
)


@dataclass
class Asked:
    """A request at a worker."""

    reader: AnswerReader
    num_prompt: int
    cached: int
    left: int  # tokens to come
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class KnownWorker:
    """Steps at `COST`: the prompts that have come since the last one, and a token of each answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[Asked] = []
        self._answering: list[Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def answer(self, asked: Asked) -> None:
        self._waiting.append(asked)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        await asked.ended.wait()

    async def _run(self) -> None:
        while self._waiting or self._answering:
            prompts, self._waiting = self._waiting, []
            chunks = [(asked.cached, asked.num_prompt) for asked in prompts]
            await self._clock.sleep(COST.step_time(chunks, len(self._answering)))
            for asked in (*self._answering, *prompts):
                self._token(asked)
            self._answering = [a for a in (*self._answering, *prompts) if a.left]

    def _token(self, asked: Asked) -> None:
        asked.left -= 1
        event: dict[str, object] = {"choices": [{}]}
        if not asked.left:
            details = {"cached_tokens": asked.cached}
            usage = {"prompt_tokens": asked.num_prompt, "prompt_tokens_details": details}
            event = {"choices": [{"finish_reason": "length"}], "usage": usage}
            asked.ended.set()
        data = b"data: " + msgspec.json.encode(event) + b"\n\n"
        asked.reader.feed(data, self._clock.now())


class KnownRouter(Client):
    """Two workers in turn; each has cached what it had before, but for the last token."""

    def __init__(self, clock: Clock, *, tells_plans: bool = True) -> None:
        super().__init__(Server("nowhere", 1), clock.now)
        self._clock = clock
        self._tells_plans = tells_plans
        self._workers = [KnownWorker(clock), KnownWorker(clock)]
        self._seen: tuple[set[tuple[int, ...]], ...] = (set(), set())
        self._num_plans = 0

    async def post(self, path: str, body: bytes, reader: AnswerReader) -> None:
        asked = msgspec.json.decode(body)
        number, self._num_plans = self._num_plans, self._num_plans + 1
        prompt, seen = tuple(asked["prompt"]), self._seen[number % 2]
        cached = len(prompt) - 1 if prompt in seen else 0
        seen.add(prompt)
        plan = f"{number}; route=turn"
        reader.begin(200, {"content-type": "text/event-stream", "x-mserve-plan": plan})
        await self._clock.sleep(REQUEST_S)
        request = Asked(reader, len(prompt), cached, asked["max_tokens"])
        await self._workers[number % 2].answer(request)

    async def get(self, path: str, reader: AnswerReader) -> None:
        worker = f"workers-{int(path.rpartition('/')[2]) % 2}"
        steps = [{"op": "start_generate", "worker": worker}]
        reader.begin(200 if self._tells_plans else 404, {})
        body = {"attempts": [{"steps": steps}]} if self._tells_plans else {"error": "none of that"}
        reader.feed(msgspec.json.encode(body), self._clock.now())


def measured(view: ClusterView = VIEW, *, tells_plans: bool = True) -> Profile:
    loop = VirtualLoop()
    clock = VirtualClock(loop)
    model = ServedModel("m", 1100, Vocabulary(10, 10_000), ignores_eos=True)

    async def measure() -> Profile:
        client = KnownRouter(clock, tells_plans=tells_plans)
        return await Probes(client, clock, model, view).run(lambda what: None)

    try:
        return loop.run(measure())
    finally:
        loop.close()


def test_the_costs_of_a_cluster_are_found() -> None:
    profile = measured()
    steps = profile.steps
    assert steps.prefill_token_s == pytest.approx(COST.prefill_token_s, rel=0.01)
    assert steps.prefill_base_s == pytest.approx(COST.prefill_base_s, rel=0.01)
    assert steps.decode_base_s == pytest.approx(COST.decode_base_s, rel=0.01)
    assert steps.decode_sequence_s == pytest.approx(COST.decode_sequence_s, rel=0.02)
    assert profile.request.base_s == pytest.approx(REQUEST_S, rel=0.05)
    assert profile.request.token_s < 1e-7
    assert max(profile.prompt_error, profile.decode_error) < 0.01
    assert profile.notes == ()


def test_prompts_fit_and_batches_are_of_one_worker() -> None:
    profile = measured()
    assert max(point.num_tokens for point in profile.prompts) == 1024
    assert {point.batch for point in profile.decodes} == {1, 2, 4, 8}
    assert {point.num_tokens for point in profile.mixed} == {16, 64, 128, 256, 512, 1024}
    assert profile.limits.num_pages * profile.limits.page_size == 8192


def test_other_work_is_noted() -> None:
    busy = (replace(WORKER, running=2), VIEW.workers[1])
    (note,) = measured(replace(VIEW, workers=busy)).notes
    assert "workers-0" in note


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ((), "No worker"),
        ((replace(WORKER, cost=None),), "older"),
        ((WORKER, replace(WORKER, name="workers-1", gpus=2)), "differ"),
    ],
)
def test_a_cluster_that_cannot_be_measured_is_refused(
    workers: tuple[WorkerView, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        measured(replace(VIEW, workers=workers))


def test_a_router_that_hides_its_plans_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not tell plans"):
        measured(tells_plans=False)
