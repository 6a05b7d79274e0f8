"""A whole cluster in one process on a virtual clock: the router's real parts and virtual workers.

    loop = VirtualLoop()
    loop.run(main(loop))        # main: async with VirtualCluster(...).running() as cluster: ...

Owns who is alive. Draws nothing at random itself: latency, disturbances and faults are given or done
to it. Knows no traffic.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from mserve.compiler.observe import Strategy
from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.errors import Unavailable
from mserve.runtime.messages import Frame, PlanCall
from mserve.runtime.router.answer import Sink
from mserve.runtime.router.client import InProcessClient
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.history import History
from mserve.runtime.router.placement import Placement, check_observes
from mserve.runtime.router.plans import PlanLog
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.reservations import Reservations
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.connection import Connection
from mserve.runtime.simulator.driver import Poison
from mserve.runtime.simulator.journal import Journal
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.network import Disturb, VirtualNetwork, undisturbed
from mserve.runtime.simulator.store import Store, StoreIndex, StoreRegistry
from mserve.runtime.simulator.worker import Surroundings, VirtualWorker, WorkerSpec

POLL_S = 0.25  # of the registry, by the router
JOIN_RETRY_S = 1.0  # while the store is away
NAME_POLL_S = 0.1  # of the registry, by a worker whose predecessor is still known there


class VirtualCluster:
    """`latency` gives the seconds that the next piece takes between router and worker."""

    def __init__(
        self,
        strategy: Strategy,
        specs: Sequence[WorkerSpec],
        loop: VirtualLoop,
        *,
        latency: Callable[[], float] = lambda: 2e-4,
        bytes_per_s: float = 10e9,
        transfer_latency_s: float = 5e-5,
        disturb: Disturb = undisturbed,
        poisons: Poison = lambda key: False,
    ) -> None:
        check_observes(strategy)
        self.loop = loop
        self.clock = clock = VirtualClock(loop)
        self.journal = Journal()
        self.store = Store(clock)
        self.network = VirtualNetwork(
            clock,
            latency_s=transfer_latency_s,
            bytes_per_s=bytes_per_s,
            disturb=self._noted(disturb),
        )
        self._latency = latency
        self._specs = {spec.name: spec for spec in specs}
        self._incarnations = itertools.count(1)
        self._plan_ids = itertools.count(1)
        self._around = Surroundings(loop, clock, self.network, self.store, poisons)
        self.workers: dict[str, VirtualWorker] = {}  # the latest of each name
        self.zombies: list[VirtualWorker] = []  # frozen ones that have a successor
        index = StoreIndex(self.store)
        self.reservations = Reservations(clock)
        history = History(clock)

        async def forget(info: WorkerInfo) -> None:
            with suppress(Unavailable):
                await index.forget(info.name, info.incarnation)

        registry = StoreRegistry(self.store, clock)
        self.fleet = Fleet(registry, clock, poll_s=POLL_S, on_gone=forget)
        self.plans = PlanLog()
        self.executor = Executor(
            Placement(strategy, self.fleet, index, self.reservations, history),
            strategy,
            self.fleet,
            InProcessClient(self._execute),
            self.reservations,
            history,
            self.plans,
            clock=clock,
            new_id=self._new_id,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["VirtualCluster"]:
        """All workers have joined, and the router knows them, when the body begins."""
        for name in self._specs:
            await self.start(name)
        ending = asyncio.Event()
        started: asyncio.Future[None] = self.loop.create_future()
        with self.loop.daemon():
            polling = self.loop.create_task(self._poll(started, ending), name="router")
        await started
        try:
            yield self
        finally:
            ending.set()
            await polling
            await self.executor.close()
            for worker in (*self.workers.values(), *self.zombies):
                worker.kill()

    async def execute(self, request: GenerationRequest, sink: Sink) -> None:
        """What `Executor.execute` does."""
        await self.executor.execute(request, sink)

    # --- what can be done to it ----------------------------------------------------------------

    async def start(self, name: str) -> None:
        """A new incarnation. As a real one, it waits until no earlier one is known any more."""
        while await self._is_known(name):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(NAME_POLL_S)
        earlier = self.workers.get(name)
        if earlier is not None and not earlier.is_dead:
            self.zombies.append(earlier)
        worker = VirtualWorker(self._specs[name], next(self._incarnations), self._around)
        self.workers[name] = worker
        self.note("start", worker.info.incarnation)
        while not worker.is_dead:
            try:
                await worker.join()
            except Unavailable:
                await asyncio.sleep(JOIN_RETRY_S)
            else:
                break

    async def _is_known(self, name: str) -> bool:
        members = await StoreRegistry(self.store, self.clock).members()
        return any(member.info.name == name for member in members)

    def kill(self, name: str, *, lose_in_flight: bool = True) -> None:
        self.note("kill", self.workers[name].info.incarnation)
        self.workers[name].kill(lose_in_flight=lose_in_flight)

    def freeze(self, name: str, *, only_engine: bool = False) -> VirtualWorker:
        """Returns the worker, to be thawed."""
        worker = self.workers[name]
        self.note("freeze", worker.info.incarnation, "engine" if only_engine else "")
        if only_engine:
            worker.freeze_engine()
        else:
            worker.freeze()
        return worker

    def note(self, what: str, *about: object) -> None:
        self.journal.note(self.clock.now(), what, *about)

    # --- what is left --------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """What living workers and the router still hold though nothing may be under way; empty when
        all is given back."""
        found = [f"{self.network.num_under_way} messages"] if self.network.num_under_way else []
        for worker in (*self.workers.values(), *self.zombies):
            if not worker.is_dead:
                found += [f"{worker.info.incarnation}: {what}" for what in _held(worker)]
        for name, load in self.reservations.loads().items():
            if (load.prefill_ns, load.decode_ns, load.requests, load.kv_tokens) != (0, 0, 0, 0):
                found.append(f"reserved on {name}: {load}")
        return found

    def check_integrity(self) -> None:
        """Raises AssertionError unless every page of every living worker is accounted for."""
        for worker in (*self.workers.values(), *self.zombies):
            if not worker.is_dead:
                worker.engine.check_integrity()

    # --- inside --------------------------------------------------------------------------------

    async def _poll(self, started: "asyncio.Future[None]", ending: asyncio.Event) -> None:
        async with self.fleet.polling():
            started.set_result(None)
            await ending.wait()

    async def _execute(self, info: WorkerInfo, call: PlanCall) -> AsyncGenerator[Frame, None]:
        worker = self.workers.get(info.name)
        if worker is None or worker.info.incarnation != info.incarnation:
            worker = next((z for z in self.zombies if z.info == info), None)
        self.note("call", call.key, info.incarnation, *[step.step for step in call.steps])
        connection = Connection(worker, call, self.clock, self._latency)
        frames = connection.frames()
        try:
            async for frame in frames:
                yield frame
        finally:
            await frames.aclose()

    def _new_id(self) -> str:
        return f"{int(self.clock.now() * 1e3):012x}{next(self._plan_ids):08x}"

    def _noted(self, disturb: Disturb) -> Disturb:
        def noted(header: bytes) -> Sequence[float]:
            delays = disturb(header)
            self.note("message", header, *(delays if delays != (0.0,) else ()))
            return delays

        return noted


def _held(worker: VirtualWorker) -> list[str]:
    service, stats = worker.service, worker.engine.stats()
    held = {
        "plans": service.num_sessions,
        "tickets": service.stats().stats.tickets,
        "sends": service.num_sends,
        "running": stats.running,
        "waiting": stats.waiting,
        "tokens of KV": stats.kv_used_tokens,
        "staging slots": worker.transport.num_slots_held,
    }
    return [f"{number} {what}" for what, number in held.items() if number]
