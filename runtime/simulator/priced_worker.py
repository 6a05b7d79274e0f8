"""A simulated worker: the real engine, tickets and sends, driven over prices of steps and transfers.

Its requests have no text, its KV no bytes. As a real one it announces itself, its load and its cached
blocks. Knows neither the router nor what becomes of its answers.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mserve.runtime.cluster.membership import KvLayout, PrefixIndex, Registry, WorkerStats
from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Pages, StepCost
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.errors import RequestError, Unreachable, WorkerLost
from mserve.runtime.messages import Frame, PlanCall
from mserve.runtime.simulator.clock import EPOCH_S, VirtualClock
from mserve.runtime.simulator.links import Links, LinkSpec
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.membership import virtual_info
from mserve.runtime.simulator.runs import Run, RunDriver
from mserve.runtime.simulator.streams import Stream
from mserve.runtime.worker import ipc
from mserve.runtime.worker.admission import keeps_connection
from mserve.runtime.worker.announcer import Announcer
from mserve.runtime.worker.service import WorkerService

LAYOUT = KvLayout("priced", "priced", "none", 1, 1, 1)

OnRun = Callable[[str, Run, float], None]
_ANSWERS = (ipc.Token, ipc.Stepped, ipc.Failed)


class WorkerCost(StepCost, Protocol):
    """What a worker's steps take, and what it costs to have it; 0 where that is not known."""

    @property
    def tensor_parallel(self) -> int: ...

    @property
    def usd_per_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What one worker is. `profile` is what the router is told of `cost`."""

    name: str
    pool: str
    engine: EngineConfig
    cost: WorkerCost
    profile: CostProfile
    link: LinkSpec


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers of a cluster share."""

    loop: VirtualLoop
    clock: VirtualClock
    links: Links
    registry: Registry
    index: PrefixIndex
    latency_s: float  # between router and worker, one way
    on_run: OnRun | None = None  # told of every worker's runs of steps, and when they ended


class UnmovedKv:
    """A `KvStore` in which a token's KV is one byte that nobody looks at, in a single layer: a range
    of a prompt is one message then. What its bytes cost the links know."""

    num_layers = 1
    bytes_per_token_layer = 1

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        """Nothing is read."""

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        """Nothing is written."""


class PricedWorker:
    """One incarnation, from its start to its death."""

    def __init__(self, spec: WorkerSpec, number: int, around: Surroundings) -> None:
        self.spec = spec
        self._around = around
        self.is_dead = False
        self._streams: dict[str, Stream] = {}  # by the key of their call
        transport = around.links.join(spec.link, lambda: self.driver.hear())
        self.info = virtual_info(
            spec.name,
            spec.pool,
            number,
            transport.address,
            layout=LAYOUT,
            engine=spec.engine,
            cost=spec.profile,
            gpus=spec.cost.tensor_parallel,
        )
        self.engine = Engine(spec.engine)
        self.service = WorkerService(
            self.engine,
            UnmovedKv(),
            transport,
            worker=spec.name,
            incarnation=self.info.incarnation,
            fingerprint=LAYOUT.fingerprint,
            unix_s=lambda now: now + EPOCH_S,
        )
        on_run = None if around.on_run is None else partial(around.on_run, spec.name)
        self.driver = RunDriver(
            self.service,
            transport,
            around.clock,
            spec.cost,
            self._deliver,
            on_run,
            self._num_pages_held,
        )
        self._announcer = Announcer(
            self.info,
            around.registry,
            around.index,
            snapshot=self._snapshot,
            stats=self._stats,
            greet=lambda peers: None,
        )
        self._membership: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Returns when the registry knows the worker."""
        await self._announcer.join()
        self._membership = self._around.loop.start_daemon(self._announcer.run(), self.spec.name)

    def execute(self, call: PlanCall) -> AsyncGenerator[Frame, None]:
        """What the router's client does: the call arrives after one latency."""
        stream = Stream(
            call,
            self._around.clock,
            self._around.latency_s,
            self.spec.link.kv_bytes_per_token,
        )
        if self.is_dead:
            stream.fail(Unreachable("nobody listens at the worker's address"))
        else:
            self._streams[call.key] = stream  # from now on: its connection breaks with the worker
            self._around.clock.call_after(
                self._around.latency_s, partial(self.driver.post, partial(self._submit, stream))
            )
        return stream.frames(self._leave)

    def kill(self) -> None:
        """The process dies at once, and what it was about to say is lost."""
        if self.is_dead:
            return
        self.is_dead = True
        self.driver.kill()
        if self._membership is not None:
            self._membership.cancel()
        self._around.links.kill(self.info.transport_address)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(WorkerLost("the worker closed the connection"))

    def leftovers(self) -> list[str]:
        """What is still held though nothing may be under way."""
        stats = self.engine.stats()
        held = {
            "plans": self.service.num_sessions,
            "sends": self.service.num_sends,
            "sequences": stats.running + stats.waiting,
            "tokens of KV": stats.kv_used_tokens,
        }
        return [f"{self.spec.name} holds {count} {what}" for what, count in held.items() if count]

    # --- inside --------------------------------------------------------------------------------

    def _submit(self, stream: Stream, now: float) -> None:
        call = stream.call
        try:
            self.service.submit(call, keeps_connection(call), now)
        except RequestError as error:
            del self._streams[call.key]
            stream.fail(error)

    def _leave(self, stream: Stream) -> None:
        """The caller has left; the worker hears of it one latency later."""
        self._around.clock.call_after(
            self._around.latency_s, partial(self.driver.post, partial(self._cancel, stream))
        )

    def _cancel(self, stream: Stream, now: float) -> None:
        if self._streams.get(stream.call.key) is stream:
            self.service.cancel(stream.call.key, now)

    def _deliver(self, events: list[ipc.Event]) -> None:
        changed: dict[Stream, None] = {}
        for event in events:
            if isinstance(event, ipc.Blocks):
                self._announcer.blocks_changed(event.events)
            elif isinstance(event, _ANSWERS):
                stream = self._streams.get(event.key)
                if stream is not None and stream.take(event):
                    changed[stream] = None
        for stream in changed:
            if stream.is_over:
                del self._streams[stream.call.key]
            stream.flush()

    def _num_pages_held(self) -> int:
        """By requests, not by the prefix cache."""
        return self.engine.cache.num_pages - self.engine.cache.num_available

    def _stats(self) -> WorkerStats:
        return self.service.stats().stats

    async def _snapshot(self) -> ipc.Snapshot:
        return self.service.snapshot(0)
