"""A cluster in one process: workers whose "model" is a hash of all tokens so far, so that the same
prompt and the same tokens always go on the same way, and failures by script. They are as whoever calls
workers sees them: members of a registry that answer plan calls with frames."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mserve.runtime.chunks import chunk
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import KvLayout, Member, WorkerInfo, WorkerStats
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
    StartGenerateCall,
    StepReport,
    encode,
    pack_tokens,
    unpack_tokens,
)

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


class Workers:
    """What tests need of this file, by one fixture."""

    MODEL = MODEL
    COST = COST
    Script = Script
    Tokenizer = FakeTokenizer
    expected_tokens = staticmethod(expected_tokens)
    next_token = staticmethod(next_token)

    @staticmethod
    def cluster(*names: str) -> FakeCluster:
        cluster = FakeCluster()
        for name in names:
            cluster.add(name)
        return cluster

    @staticmethod
    def tokens_frame(token: int, text: str) -> Frame:
        return Frame(FrameKind.TOKENS, pack_tokens([token]), text.encode())

    @staticmethod
    def finish_frame(num_prompt: int, num_output: int) -> Frame:
        finish = Finish("length", num_prompt, num_output, 0)
        return Frame(FrameKind.FINISH, payload=encode(finish))


@pytest.fixture
def workers() -> type[Workers]:
    return Workers
