"""What became of the last plans: decision, steps, states and timings, for `GET /v1/plans/{id}`.

Steps and answers are driven through compiler.protocol's tables here. Keeps no token and no text. Bounded:
the oldest record goes when a new one comes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgspec

from mserve.compiler.plan import (
    COMPUTING_STEPS,
    Choice,
    Decision,
    RemoteSend,
    StartGenerate,
    Step,
    StepName,
    WorkerName,
)
from mserve.compiler.protocol import (
    ANSWER,
    STEP,
    AnswerEvent,
    AnswerState,
    Effect,
    ProtocolError,
    StepEvent,
    StepState,
    advance,
)
from mserve.runtime.errors import EngineFailure
from mserve.runtime.messages import Finish, StepReport

MAX_ATTEMPTS = 16  # kept of a request
OPEN_STATES = (StepState.PENDING, StepState.RUNNING)
OPEN_ANSWERS = (AnswerState.PLANNING, AnswerState.RUNNING)


@dataclass(slots=True)
class StepRecord:
    """One step as the router has heard of it."""

    step: Step
    state: StepState = StepState.PENDING
    report: StepReport | None = None
    error: str = ""
    streamed: int = 0  # tokens that came from it
    counted: int | None = None  # prompt tokens that a generation computed, known when it ends
    broken_s: float | None = (
        None  # when it was given up, where its worker did not say that it ended
    )

    def advance(self, event: StepEvent) -> None:
        self.state = advance(STEP, self.state, event).state

    def computed(self, num_prompt: int) -> int:
        """How many of the first `num_prompt` tokens its engine computed; until it says so, and if it
        breaks off, how many it may have."""
        report, step = self.report, self.step
        if self.counted is not None:
            return self.counted
        if report is None or not isinstance(step, COMPUTING_STEPS):
            return 0
        end = step.end if isinstance(step, RemoteSend) else num_prompt
        if report.state == "done":
            return max(0, report.computed - max(0, end - num_prompt))
        if isinstance(step, RemoteSend):
            begin = step.begin + report.matched
        else:
            begin = max(report.matched, step.begin if step.uses else 0)
        return max(0, min(end, num_prompt) - begin)

    def give_up(self, event: StepEvent, at_s: float) -> None:
        """Ends a step that is not over."""
        self.advance(event)
        self.broken_s = at_s


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of a prompt's longest cached prefix when its plan was made, as the index knew it."""

    available: int = 0  # on whichever worker has most
    routed: int = 0  # on whichever worker of the plan has most


UNCACHED = Cached()


@dataclass(slots=True)
class AttemptRecord:
    """One decision and how its steps went."""

    started_s: float
    decision: Decision
    cached: Cached = UNCACHED
    steps: dict[StepName, StepRecord] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = {step.id: StepRecord(step) for step in self.decision.plan.steps}

    def note(self, report: StepReport) -> StepRecord:
        """Takes in a worker's report. Raises EngineFailure for one that breaks the protocol."""
        record = self.steps.get(report.step)
        if record is None:
            raise EngineFailure(f"a worker reported on step '{report.step}', which is not its own")
        try:
            if record.state is StepState.PENDING:
                record.advance(StepEvent.START)
            elif report.state == "running":
                return record  # said again
            if report.state == "done":
                record.advance(StepEvent.FINISH)
        except ProtocolError as error:
            raise EngineFailure(
                f"step '{report.step}' was reported out of turn: {error}"
            ) from error
        record.report = report
        return record

    def generating(self, worker: WorkerName) -> StepRecord | None:
        """The step that `worker` streams from."""
        for record in self.steps.values():
            if (
                isinstance(record.step, StartGenerate)
                and record.step.worker == worker
                and record.state in OPEN_STATES
            ):
                return record
        return None

    def fail(self, worker: WorkerName, step: StepName, error: str, at_s: float) -> None:
        """Fails `step`, or, where the worker did not say which, its first step that is not over."""
        for record in self.steps.values():
            is_meant = record.step.id == step or (not step and record.step.worker == worker)
            if is_meant and record.state in OPEN_STATES:
                record.give_up(StepEvent.FAIL, at_s)
                record.error = error
                return

    def cancel_open(self, at_s: float) -> None:
        """Ends every step that is not over."""
        for record in self.steps.values():
            if record.state in OPEN_STATES:
                record.give_up(StepEvent.CANCEL, at_s)

    def count(
        self, worker: WorkerName, finish: Finish, num_prompt: int, stage: Sequence[Step]
    ) -> None:
        """Notes what a generation computed of the prompt. Its worker counts for the whole stage, what
        it computed to send included, and the answer so far, if that came with the prompt."""
        record = self.generating(worker)
        assert record is not None, f"{worker} ends a generation that has not begun"
        sends = (self.steps[s.id] for s in stage if s.worker == worker and s is not record.step)
        computed = finish.prompt_tokens - finish.cached_tokens
        computed -= max(0, finish.prompt_tokens - num_prompt)
        computed -= sum(send.computed(num_prompt) for send in sends)
        record.counted = max(0, computed)


@dataclass(slots=True)
class PlanRecord:
    """One request's plans, attempt by attempt. Times are unix seconds on the router's clock."""

    id: str
    request_id: str
    started_s: float
    prompt_tokens: int
    tenant: str = ""
    state: AnswerState = AnswerState.PLANNING
    attempts: list[AttemptRecord] = field(default_factory=list)  # the first, and the last ones
    num_dropped: int = 0  # attempts between them, which are not kept
    computed_dropped: int = 0  # prompt tokens that engines computed in those
    first_token_s: float | None = None
    ended_s: float | None = None
    finish: Finish | None = None
    error: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_ANSWERS

    @property
    def cached(self) -> Cached:
        """What there was when the request came, before its own plans left anything."""
        return self.attempts[0].cached if self.attempts else UNCACHED

    @property
    def num_attempts(self) -> int:
        return len(self.attempts) + self.num_dropped

    def begin(self, attempt: AttemptRecord) -> None:
        """One that waits for room is tried again and again: not all of that can be kept."""
        self.attempts.append(attempt)
        if len(self.attempts) > MAX_ATTEMPTS:
            self.computed_dropped += self._computed(self.attempts.pop(1))
            self.num_dropped += 1

    @property
    def delivered(self) -> int:
        """Prompt tokens that no engine has computed for this request, in any attempt; one computed
        twice counts twice. What a lost worker may have computed is taken for computed."""
        computed = sum(map(self._computed, self.attempts)) + self.computed_dropped
        return max(0, self.prompt_tokens - computed)

    def _computed(self, attempt: AttemptRecord) -> int:
        return sum(step.computed(self.prompt_tokens) for step in attempt.steps.values())

    def advance(self, event: AnswerEvent) -> tuple[Effect, ...]:
        """Moves the answer on; returns what the executor has to do now."""
        transition = advance(ANSWER, self.state, event)
        self.state = transition.state
        return transition.effects


class PlanLog:
    """The last `size` records, by plan id."""

    def __init__(self, size: int = 1_000) -> None:
        self.size = size
        self._records: dict[str, PlanRecord] = {}

    def add(self, record: PlanRecord) -> None:
        self._records[record.id] = record
        if len(self._records) > self.size:
            del self._records[next(iter(self._records))]

    def get(self, plan_id: str) -> PlanRecord | None:
        return self._records.get(plan_id)

    def of_request(self, request_id: str) -> list[PlanRecord]:
        """One for each choice, in order."""
        return [each for each in self._records.values() if each.request_id == request_id]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[PlanRecord]:
        """Newest first."""
        return reversed(self._records.values())


def plan_json(record: PlanRecord) -> dict[str, Any]:
    """A record as JSON values. Times are milliseconds since the request came in; workers' clocks
    are taken to agree with the router's."""

    def ms(at_s: float | None) -> float | None:
        return None if at_s is None else round((at_s - record.started_s) * 1e3, 3)

    return {
        "id": record.id,
        "request_id": record.request_id,
        "state": record.state.value,
        "started_s": record.started_s,
        "prompt_tokens": record.prompt_tokens,
        "first_token_ms": ms(record.first_token_s),
        "ended_ms": ms(record.ended_s),
        "usage": msgspec.to_builtins(record.finish),
        "cached": {
            "available": record.cached.available,
            "routed": record.cached.routed,
            "delivered": None if record.finish is None else record.finish.cached_tokens,
        },
        "error": record.error or None,
        "num_attempts": record.num_attempts,
        "attempts": [
            {
                "number": number if number == 1 else number + record.num_dropped,
                "started_ms": ms(attempt.started_s),
                "strategy": attempt.decision.plan.strategy,
                "route": attempt.decision.plan.route,
                "bindings": msgspec.to_builtins(attempt.decision.bindings),
                "choices": [_choice_json(choice) for choice in attempt.decision.choices],
                "guards": [[route, held] for route, held in attempt.decision.guards],
                "predicted_ttft_s": attempt.decision.predicted_ttft_s,
                "forecasts_s": {
                    route: _finite(time_s) for route, time_s in attempt.decision.forecasts
                },
                "steps": [_step_json(step, ms) for step in attempt.steps.values()],
            }
            for number, attempt in enumerate(record.attempts, 1)
        ],
    }


def _choice_json(choice: Choice) -> dict[str, Any]:
    """Infinite values are null, as JSON has none."""
    return {
        "let": choice.let,
        "expression": choice.expression,
        "num_candidates": choice.num_candidates,
        "candidates": [
            {
                "worker": each.worker,
                "value": _finite(each.value),
                "terms": dict(zip(choice.terms, map(_finite, each.terms), strict=True)),
            }
            for each in choice.candidates
        ],
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _step_json(record: StepRecord, ms: Any) -> dict[str, Any]:
    step: dict[str, Any] = msgspec.to_builtins(record.step)
    report = record.report
    step |= {"state": record.state.value, "error": record.error or None}
    step |= {"start_ms": None, "end_ms": None}
    if report is not None:
        step |= {
            "start_ms": ms(report.started_s),
            "end_ms": ms(report.ended_s if report.state == "done" else record.broken_s),
            "matched": report.matched,
            "computed": report.computed,
            "received": report.received,
            "sent": report.sent,
            "generated": max(report.generated, record.streamed),
            "sent_bytes": report.sent_bytes,
            "received_bytes": report.received_bytes,
        }
    return step
