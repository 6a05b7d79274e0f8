"""When each step of a plan would begin and end, from the cluster's observations and cost models.

A straight simulation of one plan on an otherwise frozen cluster: prefill waits for the worker's
prefill backlog, a transfer overlaps the computation it follows. Knows no expressions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mserve.compiler.observe import Observations
from mserve.compiler.plan import (
    FIRST_TOKEN,
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
    StepName,
    TicketName,
    WorkerName,
)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds from the dispatch of the plan. A step that moves KV ends when the last byte is there.

    `computed_s` is when the worker has all KV of the step's range itself: a generating step emits
    its first token then.
    """

    step: StepName
    worker: WorkerName
    begin_s: float
    computed_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    steps: tuple[StepTime, ...]
    first_token_s: float
    arrived_s: Mapping[TicketName, float]  # when the last byte sent under a ticket is there


def predict(plan: Plan, view: Observations) -> Timeline:
    """The plan's timeline on the cluster that `view` shows. Steps come in the plan's order."""
    return _Prediction(plan, view).run()


def critical_path(plan: Plan, timeline: Timeline) -> tuple[StepName, ...]:
    """The steps that the first token waits for, in order: from it backwards, whatever ended last
    before each. Where a step waits for its worker's earlier prompts, the path begins."""
    begins = {time.step: time.begin_s for time in timeline.steps}
    steps = {step.id: step for step in plan.steps}
    name = next(step.id for step in plan.steps if isinstance(step, StartGenerate))
    path = [name]
    while waits := _waits(plan, steps[name], timeline):
        ended_s, names = max(waits, key=lambda wait: wait[0])
        if ended_s < begins[name]:
            break
        path += names
        name = names[-1]
    return tuple(reversed(path))


def _waits(plan: Plan, step: Step, timeline: Timeline) -> list[tuple[float, tuple[StepName, ...]]]:
    """What a step before the first token waits for: when it is over, and the steps it consists of,
    the latest first. KV comes by two: the receiver's and the sender's."""
    ends = {time.step: time.end_s for time in timeline.steps}
    waits: list[tuple[float, tuple[StepName, ...]]] = [(ends[name], (name,)) for name in step.after]
    if isinstance(step, (RemoteSend, StartGenerate)):
        for ticket in step.uses:
            waits.append((timeline.arrived_s[ticket], _movers(plan, ticket)))
    return waits


def _movers(plan: Plan, ticket: TicketName) -> tuple[StepName, StepName]:
    prep = next(s.id for s in plan.steps if isinstance(s, PrepRecv) and s.ticket == ticket)
    send = next(s.id for s in plan.steps if isinstance(s, RemoteSend) and ticket in s.to)
    return prep, send


class _Prediction:
    def __init__(self, plan: Plan, view: Observations) -> None:
        self._plan = plan
        self._view = view
        self._free_s: dict[WorkerName, float] = {}  # when the worker's prefill is done
        self._receivers: dict[TicketName, WorkerName] = {}
        self._arrived_s: dict[TicketName, float] = {}
        self._end_s: dict[StepName, float] = {}
        self._first_token_s: list[float] = []
        self._num_generated = 0.0

    def run(self) -> Timeline:
        times = tuple([self._time(step) for step in self._plan.steps])
        return Timeline(times, self._first_token_s[0], self._arrived_s)

    def _time(self, step: Step) -> StepTime:
        if isinstance(step, PrepRecv):
            self._receivers[step.ticket] = step.worker
            begin = computed = end = 0.0
        elif isinstance(step, RemoteSend):
            begin, computed, end = self._send(step)
        elif isinstance(step, StartGenerate):
            begin, computed, end = self._generate(step)
        else:
            begin = computed = end = self._ready_s(step)
        self._end_s[step.id] = end
        return StepTime(step.id, step.worker, begin, computed, end)

    def _ready_s(self, step: Step) -> float:
        """When all that the step waits for is done."""
        times = [self._end_s[name] for name in step.after]
        if isinstance(step, (RemoteSend, StartGenerate)):
            times += [self._arrived_s[ticket] for ticket in step.uses]
        return max(times, default=0.0)

    def _send(self, step: RemoteSend) -> tuple[float, float, float]:
        begin, computed = self._compute(step, step.begin, step.end)
        if step.end > self._plan.num_tokens:  # a handoff: what is decoded goes out as it comes
            computed = max(self._end_s[name.removesuffix(FIRST_TOKEN)] for name in step.after)
        end = computed
        for ticket in step.to:
            receiver = self._receivers[ticket]
            num_tokens = step.end - max(step.begin, self._view.cached(receiver))
            moving = self._view.transfer_time(max(0, num_tokens), step.worker, receiver)
            self._arrived_s[ticket] = max(computed, begin + moving)
            end = max(end, self._arrived_s[ticket])
        return begin, computed, end

    def _generate(self, step: StartGenerate) -> tuple[float, float, float]:
        last = self._plan.num_tokens - 1
        if self._first_token_s:  # a handoff: nothing of the prompt is left to compute
            begin = first = self._ready_s(step)
        else:
            begin, first = self._compute(step, min(step.begin, last), self._plan.num_tokens, last)
        self._first_token_s.append(first)
        self._end_s[step.id + FIRST_TOKEN] = first
        return begin, first, first + self._view.decode_time(self._num_decoded(step), step.worker)

    def _num_decoded(self, step: StartGenerate) -> float:
        """Tokens that the step decodes: of the expected answer, cut by the limits, what is left
        after the first token or the handoff."""
        done = max(1.0, self._num_generated)
        count = min(float(self._view.request("expected_output")), self._view.max_tokens)
        if step.max_tokens is not None:
            count = min(count, step.max_tokens)
        self._num_generated = max(count, done)
        return max(0.0, count - done)

    def _compute(
        self, step: RemoteSend | StartGenerate, begin: int, end: int, last: int | None = None
    ) -> tuple[float, float]:
        """When the worker starts on what it lacks of `[begin, end)`, and when it has it.

        `last` is a token that runs even if cached.
        """
        worker, view = step.worker, self._view
        ready = self._ready_s(step)
        begin = max(begin, view.cached(worker))
        if last is not None:
            begin = min(begin, last)
        if begin >= end or any(name.endswith(FIRST_TOKEN) for name in step.after):
            return ready, ready
        if worker not in self._free_s:
            self._free_s[worker] = view.worker("prefill_backlog", worker)
        start = max(ready, self._free_s[worker])
        done = self._free_s[worker] = start + self._prefill_s(begin, end, worker)
        return start, done

    def _prefill_s(self, begin: int, end: int, worker: WorkerName) -> float:
        """Of `[begin, end)` after `[0, begin)`; one token is the least that a step can cost."""
        num_tokens, prefill_time = self._plan.num_tokens, self._view.prefill_time
        took = prefill_time(num_tokens - begin, worker) - prefill_time(num_tokens - end, worker)
        return max(took, prefill_time(1, worker))
