"""Drives one worker's engine in virtual time: the loop of worker/process.py, many equal steps at once.

    take commands -> progress transfers -> plan -> one run of equal steps, priced -> commit -> events

A run ends early, at the next step's end, when something arrives for the worker. Decides nothing: what
is in a step and how often it may be repeated is the scheduler's (`Batch.repeat`).
"""

import math
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

from mserve.runtime.clock import Timer
from mserve.runtime.engine.batching import Batch, StepCost, StepOutput
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.links import Computing, PricedTransport
from mserve.runtime.worker import ipc
from mserve.runtime.worker.service import WorkerService

Command = Callable[[float], None]  # of the time
TICK_S = 0.25  # between looks at what time alone has done, while there is nothing to run


@dataclass(slots=True)
class Run:
    """`steps` equal steps from `begin_s`: the first takes `first_s`, each further one `slope_s` more
    than the one before."""

    batch: Batch
    begin_s: float
    first_s: float
    slope_s: float
    steps: int
    timer: Timer | None = None

    def duration_s(self, steps: int) -> float:
        return steps * self.first_s + self.slope_s * (steps * (steps - 1) / 2)

    def steps_until(self, elapsed_s: float) -> int:
        """How many steps there are until the first that ends at `elapsed_s` or later; at least one."""
        half = self.slope_s / 2
        linear = self.first_s - half
        if half > 0:
            root = math.sqrt(linear * linear + 4 * half * elapsed_s)
            steps = math.ceil((root - linear) / (2 * half))
        else:
            steps = math.ceil(elapsed_s / self.first_s) if self.first_s > 0 else self.steps
        steps = max(1, steps)
        while steps > 1 and self.duration_s(steps - 1) >= elapsed_s:
            steps -= 1
        while self.duration_s(steps) < elapsed_s and steps < self.steps:
            steps += 1
        return min(steps, self.steps)


class RunDriver:
    """Drives one service until it is killed; `deliver` takes what the worker's front must know,
    `on_run` is told of each run and when it ended, `num_pages_held` asked at its end."""

    def __init__(
        self,
        service: WorkerService,
        transport: PricedTransport,
        clock: VirtualClock,
        cost: StepCost,
        deliver: Callable[[list[ipc.Event]], None],
        on_run: Callable[[Run, float], None] | None = None,
        num_pages_held: Callable[[], int] = lambda: 0,
    ) -> None:
        self._service = service
        self._transport = transport
        self._clock = clock
        self._cost = cost
        self._deliver = deliver
        self._on_run = on_run
        self._num_pages_held = num_pages_held
        self._commands: deque[Command] = deque()
        self._run: Run | None = None
        self._is_due = False  # a turn is
        self._is_hooked = False  # KV of the running step goes out
        self._is_reminded = False
        self.is_dead = False
        self.num_steps = 0
        self.num_runs = 0
        self.busy_s = 0.0
        self.num_tokens = 0  # that were computed, of prompts and answers
        self.peak_pages = 0  # of KV, held by requests at the end of a run

    def post(self, command: Command) -> None:
        """To be taken at the end of the step that runs now."""
        self._commands.append(command)
        self.wake()

    def wake(self) -> None:
        """There is something to do as soon as no step runs."""
        if self.is_dead:
            return
        if self._run is None:
            if not self._is_due:
                self._is_due = True
                self._clock.call_soon(self._turn)
        elif self._run.steps > 1:
            self._cut(self._run)

    def hear(self) -> None:
        """The transport has news. As in the process, transfers go on between the layers of a step
        whose KV goes out; else they wait for the step's end."""
        if self._is_hooked and not self.is_dead:
            self._service.progress(self._clock.now())
        else:
            self.wake()

    def kill(self) -> None:
        self.is_dead = True
        if self._run is not None and self._run.timer is not None:
            self._run.timer.cancel()

    # --- the loop ------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._is_due = False
        if self.is_dead:
            return
        now = self._clock.now()
        while self._commands:
            self._commands.popleft()(now)
        self._service.expire(now)
        self._service.progress(now)
        batch = self._service.plan(now)
        events = self._service.drain()
        if events:
            self._deliver(events)
        if batch is not None:
            self._begin(batch, now)
        elif self._service.num_sessions and not self._is_reminded:
            self._is_reminded = True
            self._clock.remind(TICK_S, self._tick)

    def _tick(self) -> None:
        """Time alone may have an effect on those who wait for others: leases run out, plans give way.
        The process looks every so often, too. To look is a daemon's; what it starts is not."""
        self._is_reminded = False
        if self._run is None:
            Context().run(self.wake)

    def _begin(self, batch: Batch, now: float) -> None:
        first_s, slope_s = self._cost.step_time(batch)
        # What is moved before the first step is in its price, and must not be in the others'.
        run = self._run = Run(batch, now, first_s, slope_s, 1 if batch.moves else batch.repeat)
        if batch.until < math.inf:
            run.steps = run.steps_until(batch.until - now)
        if self._service.wants_layers:
            self._is_hooked = True
            layers = self._transport.spec.num_layers
            self._transport.computing = Computing(now + first_s / layers, now + first_s)
            self._service.layer_done(0, now)
        self._schedule(run)

    def _schedule(self, run: Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        run.timer = self._clock.call_at(run.begin_s + run.duration_s(run.steps), self._end)

    def _cut(self, run: Run) -> None:
        steps = run.steps_until(self._clock.now() - run.begin_s)
        if steps < run.steps:
            run.steps = steps
            self._schedule(run)

    def _end(self) -> None:
        run, self._run = self._run, None
        assert run is not None, "a run that ends has begun"
        self._is_hooked, self._transport.computing = False, None
        self.num_runs += 1
        self.num_steps += run.steps
        self.num_tokens += run.steps * _num_tokens(run.batch)
        self.peak_pages = max(self.peak_pages, self._num_pages_held())
        now = self._clock.now()
        self.busy_s += now - run.begin_s
        if self._on_run is not None:
            self._on_run(run, now)
        self._service.commit(run.batch, StepOutput(steps=run.steps), now)
        self._turn()


def _num_tokens(batch: Batch) -> int:
    """That a step computes."""
    return sum(chunk.end - chunk.begin for chunk in batch.prefill) + len(batch.decode)
