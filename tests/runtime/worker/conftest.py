"""Workers without processes: real engine, tickets and sends over loopback, a model of hashes.

The model writes (token, position, layer) into each KV slot, so a page that holds anything else than
its sequence's KV is noticed when it is read; its next token depends on every token before.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import xxhash

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch, LayerHook, Pages, StepOutput
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.lazy_runner import LazyRunner
from mserve.runtime.engine.moves import Moves
from mserve.runtime.errors import RequestError
from mserve.runtime.messages import (
    PlanCall,
    PrepRecvCall,
    Problem,
    Receiver,
    RemoteSendCall,
    Sampling,
    StartGenerateCall,
    StepCall,
    StepReport,
    pack_tokens,
)
from mserve.runtime.transport.base import Transport
from mserve.runtime.transport.loopback import LoopbackNetwork
from mserve.runtime.transport.ucx import UcxTransport
from mserve.runtime.transport.ucx_endpoint import LOOPBACK_OPTIONS
from mserve.runtime.worker import ipc
from mserve.runtime.worker.service import WorkerService
from mserve.runtime.worker.steps import OverlappedSteps

PAGE_SIZE = 4
NUM_LAYERS = 3
VOCABULARY = 97
Cell = tuple[int, int]  # token, position
COST = CostProfile(1e-3, 1e-5, 0.0, 1e-3, 1e-4, 1e-4, 1e9, 1024)


class HashedKv:
    """A KvStore whose KV of a token is its id and position, 8 bytes."""

    num_layers = NUM_LAYERS
    bytes_per_token_layer = 8

    def __init__(self, page_size: int = PAGE_SIZE) -> None:
        self._page_size = page_size
        self.cells: dict[tuple[int, int, int], bytes] = {}  # layer, page, slot

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        out[:] = b"".join(self.cells[layer, *self._place(pages, at)] for at in range(begin, end))

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        for index, at in enumerate(range(begin, end)):
            self.cells[layer, *self._place(pages, at)] = bytes(data[8 * index : 8 * index + 8])

    def move(self, moves: Moves) -> None:
        """Without a host tier there are only copies."""
        assert not moves.saves, "this memory has no host tier"
        for copy, layer in product(moves.copies, range(NUM_LAYERS)):
            for slot in range(copy.num_positions):
                self.cells[layer, copy.target, slot] = self.cells[layer, copy.source, slot]

    def _place(self, pages: Pages, position: int) -> tuple[int, int]:
        return pages[position // self._page_size], position % self._page_size


def cell(token: int, position: int) -> bytes:
    return pack_tokens((token, position))


class HashedModel:
    """A ModelRunner: checks the KV it attends to, then draws the hash of all tokens."""

    def __init__(self, kv: HashedKv) -> None:
        self._kv = kv

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        self._kv.move(batch.moves)
        spans = [(chunk.sequence, chunk.begin, chunk.end) for chunk in batch.prefill]
        spans += [(s, len(s.tokens) - 1, len(s.tokens)) for s in batch.decode]
        for layer in range(NUM_LAYERS):
            for sequence, begin, end in spans:
                data = b"".join(cell(sequence.tokens[at], at) for at in range(begin, end))
                self._kv.write(sequence.pages, layer, begin, end, memoryview(data))
                out = bytearray(8 * end)
                self._kv.read(sequence.pages, layer, 0, end, memoryview(out))
                expected = b"".join(cell(sequence.tokens[at], at) for at in range(end))
                assert out == expected, f"{sequence.key} reads KV of other tokens in layer {layer}"
            if on_layer is not None:
                on_layer(layer)
        return StepOutput(tokens=[next_token(sequence.tokens) for sequence in batch.sampled])


class OrderedKv:
    """The KV as transfers find it: after all that the runner was asked for before."""

    num_layers = NUM_LAYERS
    bytes_per_token_layer = 8

    def __init__(self, kv: HashedKv, runner: LazyRunner) -> None:
        self._kv = kv
        self._runner = runner

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        self._runner.catch_up()
        self._kv.read(pages, layer, begin, end, out)

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        self._runner.catch_up()
        self._kv.write(pages, layer, begin, end, data)


def next_token(tokens: Iterable[int]) -> int:
    return xxhash.xxh32_intdigest(pack_tokens(tuple(tokens))) % VOCABULARY


def reference(prompt: Iterable[int], num_tokens: int) -> list[int]:
    """What the model answers when undisturbed."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[-num_tokens:]


@dataclass
class Worker:
    name: str
    transport: Any  # of the network that the cluster was made with
    engine: Engine
    service: WorkerService
    model: HashedModel
    runner: LazyRunner
    kv: OrderedKv
    steps: OverlappedSteps | None = None  # None: the plain loop
    alive: bool = True
    events: list[ipc.Event] = field(default_factory=list)

    def submit(self, call: PlanCall, held: bool, now: float) -> None:
        """As the process does: a refusal is an answer to the caller."""
        try:
            self.service.submit(call, held, now)
        except RequestError as error:
            self.events.append(ipc.Failed(call.key, Problem.of(error)))

    def tokens(self, key: str) -> list[int]:
        return [e.token for e in self.events if isinstance(e, ipc.Token) and e.key == key]

    def reports(self, key: str) -> dict[str, StepReport]:
        stepped = [e for e in self.events if isinstance(e, ipc.Stepped) and e.key == key]
        found = {event.report.step: event.report for event in stepped}
        for event in self.events:
            if isinstance(event, ipc.Token) and event.key == key and event.report:
                found[event.report.step] = event.report
        return found

    def problems(self, key: str) -> list[Problem]:
        return [e.problem for e in self.events if isinstance(e, ipc.Failed) and e.key == key]

    def receiver(self, ticket: str, fingerprint: str = "layout") -> Receiver:
        return Receiver(ticket, self.name, self.name + "#1", self.transport.address, fingerprint)


class Cluster:
    """Workers driven in turn, one step each, on a clock that the test moves. `join` makes their
    transports, on the loopback unless one is given. With `overlaps`, each plans a step while the one
    before is not done."""

    def __init__(
        self, join: Callable[[], Transport] | None = None, *, overlaps: bool = False
    ) -> None:
        self._overlaps = overlaps
        self.network = LoopbackNetwork()
        self._join = join or self.network.join
        self.workers: dict[str, Worker] = {}
        self.now = 100.0

    def add(
        self,
        name: str,
        *,
        num_pages: int = 256,
        page_size: int = PAGE_SIZE,
        fingerprint: str = "layout",
    ) -> Worker:
        transport = self._join()
        engine = Engine(
            EngineConfig(num_pages=num_pages, page_size=page_size, chunk_tokens=24, vocab_size=None)
        )
        kv = HashedKv(page_size)
        model = HashedModel(kv)
        runner = LazyRunner(model)
        ordered = OrderedKv(kv, runner)
        service = WorkerService(
            engine,
            ordered,
            transport,
            worker=name,
            incarnation=name + "#1",
            fingerprint=fingerprint,
            unix_s=lambda now: now,
            checksum_kv=True,
        )
        worker = Worker(name, transport, engine, service, model, runner, ordered)
        if self._overlaps:
            worker.steps = OverlappedSteps(service, runner, COST, lambda: self.now)
        self.workers[name] = worker
        return worker

    def turn(self) -> bool:
        """One round of every worker's loop; False when nothing happened anywhere."""
        happened = False
        self.now += 0.001
        for worker in self.workers.values():
            if worker.alive:
                happened |= self._step(worker)
        return happened

    def _step(self, worker: Worker) -> bool:
        worker.service.progress(self.now)
        stepped = self._run_step(worker) if worker.steps is None else worker.steps.step()
        worker.service.expire(self.now)
        events = worker.service.drain()
        worker.events += events
        return bool(events) or stepped

    def _run_step(self, worker: Worker) -> bool:
        service = worker.service
        batch = service.plan(self.now)
        if batch is not None:

            def on_layer(layer: int) -> None:
                service.layer_done(layer, self.now)
                service.progress(self.now)

            output = worker.model.run(batch, on_layer if service.wants_layers else None)
            service.commit(batch, output, self.now)
        return batch is not None

    def run(self, max_turns: int = 2000) -> None:
        """Until two rounds in a row bring nothing new."""
        quiet = 0
        for _ in range(max_turns):
            quiet = 0 if self.turn() else quiet + 1
            if quiet > 3:
                return
        raise AssertionError("the cluster does not come to rest")

    def run_until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """For transports that take their time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, "what was waited for did not happen"
            self.turn()

    def kill(self, worker: Worker) -> None:
        worker.alive = False
        self.network.kill(worker.transport.address)

    def check_clean(self) -> None:
        """Nothing is left on any living worker: no plan, ticket, send or pinned page."""
        for worker in self.workers.values():
            if worker.alive:
                assert worker.service.num_sessions == 0
                assert worker.service.stats().stats.tickets == 0
                assert worker.service.num_sends == 0
                assert worker.engine.is_idle
                assert worker.engine.stats().kv_used_tokens == 0
                worker.engine.check_integrity()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def overlapped_cluster() -> Cluster:
    return Cluster(overlaps=True)


@pytest.fixture
def ucx_cluster() -> Iterator[Cluster]:
    """Workers that are connected as real ones are."""
    cluster = Cluster(lambda: UcxTransport(options=LOOPBACK_OPTIONS))
    yield cluster
    for worker in cluster.workers.values():
        worker.transport.close()


def call_of(plan: str, prompt: Iterable[int], *steps: StepCall) -> PlanCall:
    return PlanCall(plan, pack_tokens(tuple(prompt)), steps)


def generate(step: str, begin: int, num_tokens: int, *uses: str) -> StartGenerateCall:
    return StartGenerateCall(step, begin, Sampling(num_tokens, temperature=0.0), uses=uses)


@dataclass(frozen=True)
class Calls:
    """Makers of calls, as tests cannot import from this file."""

    of: Callable[..., PlanCall] = call_of
    generate: Callable[..., StartGenerateCall] = generate
    prep_recv: type[PrepRecvCall] = PrepRecvCall
    remote_send: type[RemoteSendCall] = RemoteSendCall
    reference: Callable[[Iterable[int], int], list[int]] = reference


@pytest.fixture
def calls() -> Calls:
    return Calls()
