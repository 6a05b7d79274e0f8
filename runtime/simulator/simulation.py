"""A strategy under traffic, in virtual time: the router's own parts over simulated workers.

Executor, placement, fleet, reservations, history, prefix index, and in every worker engine, tickets
and sends are those of serving, the same code. Replaced are the model (what a step costs), the links
(what a range costs) and the connections between router and workers. The same seed gives the same
result, bit for bit, in every process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from mserve.compiler.observe import Strategy
from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.registry import MemoryRegistry
from mserve.runtime.errors import MserveError, RequestError, Unavailable
from mserve.runtime.messages import Finish
from mserve.runtime.router.client import InProcessClient
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.history import History
from mserve.runtime.router.live import Adapter, LiveStrategy
from mserve.runtime.router.placement import Placement, check_observes
from mserve.runtime.router.plans import PlanLog, PlanRecord
from mserve.runtime.router.reservations import Reservations
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.collecting import collecting_rarely
from mserve.runtime.simulator.faults import TimedFault
from mserve.runtime.simulator.links import Links
from mserve.runtime.simulator.loop import Crash, Loss, SimulationError, VirtualLoop
from mserve.runtime.simulator.outages import Outages
from mserve.runtime.simulator.priced_worker import OnRun, Surroundings, WorkerSpec
from mserve.runtime.simulator.requests import request_of
from mserve.runtime.simulator.results import Again, CacheUse, Result, judged, planned_again
from mserve.runtime.simulator.runs import Run
from mserve.runtime.simulator.workers import Workers
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.outcomes import Outcome

REST_S = 60.0  # of virtual time: within it everything is given back after the last answer
PROGRESS_REQUESTS = 200
ROUNDING_S = 1e-6  # of sums of times


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told what during a run: of the workers' runs of steps, and of each request's plan when
    it ends. A plan that copies KV then goes on in its record."""

    on_run: Sequence[OnRun] = ()
    on_plan: Sequence[Callable[[PlanRecord], None]] = ()


NOBODY = Listeners()


class Simulation:
    """Used once: `run`. `faults` are in the order of time; `latency_s` is one way between router and
    worker; `request_s` what a request of so many prompt tokens takes beside the workers' steps,
    before it is placed."""

    def __init__(
        self,
        strategy: Strategy,
        specs: Sequence[WorkerSpec],
        *,
        faults: Iterable[TimedFault] = (),
        latency_s: float = 2e-4,
        request_s: Callable[[int], float] = lambda num_prompt: 0.0,
        listeners: Listeners = NOBODY,
    ) -> None:
        """Raises ConfigError for a strategy that observes what the router cannot tell."""
        self._listeners = listeners
        self._request_s = request_s
        self._timeout_s = strategy.limits.timeout_s
        self._loop = loop = VirtualLoop()
        self._clock = clock = VirtualClock(loop)
        self._links = Links(clock, latency_s=max(spec.profile.transfer_base_s for spec in specs))
        self._index = MemoryPrefixIndex(max_workers=len(specs))
        registry = MemoryRegistry(clock)
        around = Surroundings(
            loop, clock, self._links, registry, self._index, latency_s, _told(listeners.on_run)
        )
        self._workers = Workers(specs, around)
        self._outages = Outages(faults, self._workers, loop, clock)
        self._reservations = Reservations(clock)
        history = History(clock)
        self._fleet = Fleet(registry, clock, on_gone=self._forget)
        live = LiveStrategy(strategy, check_observes)
        placement = Placement(live, self._fleet, self._index, self._reservations, history)
        self._adapter = Adapter(live, placement.look, clock)
        self._num_plans = 0
        self._ended: dict[str, PlanRecord] = {}  # by request
        self._executor = Executor(
            placement,
            live,
            self._fleet,
            InProcessClient(self._workers.execute),
            self._reservations,
            history,
            PlanLog(1),
            clock=clock,
            new_id=self._new_id,
            on_end=self._keep,
        )
        self._outcomes: dict[int, tuple[Outcome, CacheUse]] = {}
        self._again: dict[int, Again] = {}
        self._failures: dict[int, str] = {}
        self._num_submitted = 0

    def run(
        self, arrivals: Iterable[Arrival], on_progress: Callable[[int, float], None] | None = None
    ) -> Result:
        """Until the last answer; `on_progress` is told of answers and virtual seconds. Raises what
        `arrivals` raises of an MserveError, else a SimulationError, as Loss where a request or a page
        is lost."""
        try:
            with closing(self._loop) as loop, collecting_rarely():
                return loop.run(self._main(arrivals, on_progress))
        except (MserveError, SimulationError):
            raise
        except Exception as error:
            raise Crash("The run failed.") from error

    # --- the run -------------------------------------------------------------------------------

    async def _main(
        self, arrivals: Iterable[Arrival], on_progress: Callable[[int, float], None] | None
    ) -> Result:
        async with self._running():
            async with self._outages.played():
                await self._feed(arrivals, on_progress)
            await self._executor.close()
            await self._rest()
        self._check()
        return self._result()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """All workers have joined, and the router knows them, when the body begins."""
        await self._workers.start()
        polling = self._fleet.polling()
        with self._loop.daemon():
            await polling.__aenter__()
        try:
            with self._adapter.running():
                yield
        finally:
            await polling.__aexit__(None, None, None)

    async def _feed(
        self, arrivals: Iterable[Arrival], on_progress: Callable[[int, float], None] | None
    ) -> None:
        """Starts requests when they are due; returns when all have ended."""
        under_way: set[asyncio.Task[None]] = set()
        all_ended = asyncio.Event()

        def end(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            if not under_way:
                all_ended.set()
            if on_progress is not None and len(self._outcomes) % PROGRESS_REQUESTS == 0:
                on_progress(len(self._outcomes), self._clock.now())
            task.result()  # a failure of ours ends the run

        begin_s = self._clock.now()
        for number, arrival in enumerate(arrivals):
            due_s = begin_s + arrival.at_s
            if due_s > self._clock.now():
                await self._clock.sleep(due_s - self._clock.now())
            self._num_submitted += 1
            task = self._loop.create_task(
                self._request(arrival, number, due_s), name=f"request {number}"
            )
            under_way.add(task)
            task.add_done_callback(end)
        while under_way:
            all_ended.clear()
            await all_ended.wait()

    async def _request(self, arrival: Arrival, number: int, due_s: float) -> None:
        request = request_of(arrival, number)
        error = ""
        if (overhead_s := self._request_s(arrival.num_prompt)) > 0:
            await self._clock.sleep(overhead_s)
        try:
            await self._executor.execute(request, _Reader())
        except RequestError as failure:
            error = failure.kind
            self._failures[number] = self._said(failure, due_s)
        record = self._ended.pop(request.id)
        if record.num_attempts > 1:
            self._again[number] = planned_again(record)
        self._outcomes[number] = judged(record, due_s, error)

    def _said(self, failure: RequestError, due_s: float) -> str:
        """The error's words, with the limit that it ran into where that is the strategy's."""
        said, timeout_s = failure.detail, self._timeout_s
        if isinstance(failure, Unavailable) and self._clock.now() - due_s > timeout_s - ROUNDING_S:
            said += (
                f" So long requests wait: the strategy's `limits {{ timeout }}`, {timeout_s:g} s."
            )
        return said

    async def _rest(self) -> None:
        """What the last answers leave under way: messages of transfers, cancelled copies."""
        until_s = self._clock.now() + REST_S
        while self._leftovers() and self._clock.now() < until_s:
            await self._clock.sleep(0.1)

    # --- checks --------------------------------------------------------------------------------

    def _check(self) -> None:
        num_lost = self._num_submitted - len(self._outcomes)
        if num_lost:
            raise Loss(f"{num_lost} of {self._num_submitted} requests have no end.")
        if leftovers := self._leftovers():
            raise Loss(f"Not all was given back: {'; '.join(leftovers)}.")
        try:
            self._workers.check_integrity()
        except AssertionError as error:
            raise Loss(f"The pages of a worker do not add up: {error}") from error

    def _leftovers(self) -> list[str]:
        found = self._workers.leftovers()
        for name, load in self._reservations.loads().items():
            if load.requests or load.prefill_ns or load.decode_ns or load.kv_tokens:
                found.append(f"reserved on {name}: {load}")
        return found

    def _result(self) -> Result:
        ordered = [self._outcomes[number] for number in sorted(self._outcomes)]
        return Result(
            [outcome for outcome, _ in ordered],
            [cache for _, cache in ordered],
            self._workers.uses(),
            self._outages.happened,
            self._links.num_bytes,
            self._loop.num_callbacks,
            self._again,
            self._failures,
        )

    # --- what the executor asks ----------------------------------------------------------------

    def _new_id(self) -> str:
        self._num_plans += 1
        return f"{self._num_plans:012x}"

    def _keep(self, record: PlanRecord) -> None:
        self._ended[record.request_id] = record
        for on_plan in self._listeners.on_plan:
            on_plan(record)

    async def _forget(self, info: WorkerInfo) -> None:
        await self._index.forget(info.name, info.incarnation)


def _told(listeners: Sequence[OnRun]) -> OnRun | None:
    """None where nobody listens: then runs are not told of at all."""
    if len(listeners) < 2:
        return listeners[0] if listeners else None

    def tell(worker: str, run: Run, end_s: float) -> None:
        for on_run in listeners:
            on_run(worker, run, end_s)

    return tell


class _Reader:
    """A client that reads at once; what became of its request the plan's record says."""

    def placed(self, plan_id: str, route: str, version: int) -> None:
        """The record has it."""

    async def tokens(self, payload: bytes) -> None:
        """There is no text."""

    async def finish(self, finish: Finish) -> None:
        """The record has it."""
