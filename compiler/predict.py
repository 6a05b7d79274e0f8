"""When each step of a plan would begin and end, from the cluster's observations and cost models.

A straight simulation of one plan on an otherwise frozen cluster: prefill waits for the worker's
prefill backlog, a transfer overlaps the computation it follows. Knows no expressions.
"""

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
    """Seconds from the dispatch of the plan. A step that moves KV ends when the last byte is there."""

    step: StepName
    worker: WorkerName
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    steps: tuple[StepTime, ...]
    first_token_s: float


def predict(plan: Plan, view: Observations) -> Timeline:
    """The plan's timeline on the cluster that `view` shows. Steps come in the plan's order."""
    return _Prediction(plan, view).run()


class _Prediction:
    def __init__(self, plan: Plan, view: Observations) -> None:
        self._plan = plan
        self._view = view
        self._free_s: dict[WorkerName, float] = {}  # when the worker's prefill is done
        self._receivers: dict[TicketName, WorkerName] = {}
        self._arrived_s: dict[TicketName, float] = {}
        self._end_s: dict[StepName, float] = {}
        self._first_token_s: list[float] = []

    def run(self) -> Timeline:
        times = tuple([self._time(step) for step in self._plan.steps])
        return Timeline(times, self._first_token_s[0])

    def _time(self, step: Step) -> StepTime:
        if isinstance(step, PrepRecv):
            self._receivers[step.ticket] = step.worker
            begin = end = 0.0
        elif isinstance(step, RemoteSend):
            begin, end = self._send(step)
        elif isinstance(step, StartGenerate):
            begin, end = self._generate(step)
        else:
            begin = end = self._ready_s(step)
        self._end_s[step.id] = end
        return StepTime(step.id, step.worker, begin, end)

    def _ready_s(self, step: Step) -> float:
        """When all that the step waits for is done."""
        times = [self._end_s[name] for name in step.after]
        if isinstance(step, (RemoteSend, StartGenerate)):
            times += [self._arrived_s[ticket] for ticket in step.uses]
        return max(times, default=0.0)

    def _send(self, step: RemoteSend) -> tuple[float, float]:
        begin, computed = self._compute(step, step.begin, step.end)
        end = computed
        for ticket in step.to:
            receiver = self._receivers[ticket]
            num_tokens = step.end - max(step.begin, self._view.cached(receiver))
            moving = self._view.transfer_time(max(0, num_tokens), step.worker, receiver)
            self._arrived_s[ticket] = max(computed, begin + moving)
            end = max(end, self._arrived_s[ticket])
        return begin, end

    def _generate(self, step: StartGenerate) -> tuple[float, float]:
        last = self._plan.num_tokens - 1
        if self._first_token_s:  # a handoff: nothing of the prompt is left to compute
            begin = first = self._ready_s(step)
        else:
            begin, first = self._compute(step, min(step.begin, last), self._plan.num_tokens, last)
        self._first_token_s.append(first)
        self._end_s[step.id + FIRST_TOKEN] = first
        return begin, first + self._view.decode_time(self._num_decoded(step), step.worker)

    def _num_decoded(self, step: StartGenerate) -> float:
        """Tokens after the first one: the expected answer, cut by the limits."""
        expected = self._view.request("expected_output")
        count = min(float(expected), self._view.max_tokens)
        if step.max_tokens is not None:
            count = min(count, step.max_tokens)
        return max(0.0, count - 1)

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
