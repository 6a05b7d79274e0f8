"""What one plan does on this worker, step by step, and how each step went.

A session exists from a plan's first call here until its last step has ended. Step states change
through `compiler.protocol.STEP` only. Knows no pages and no messages of the transfers.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from mserve.compiler.protocol import STEP, StepEvent, StepState, advance
from mserve.runtime.errors import Conflict, Gone
from mserve.runtime.messages import PlanCall, RemoteSendCall, StartGenerateCall, StepReport


@dataclass(slots=True)
class StepRecord:
    """The report of one step in the making; times are unix seconds."""

    step: str
    started_s: float
    state: StepState = StepState.PENDING
    ended_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def start(self, now_s: float) -> None:
        if self.state is StepState.PENDING:
            self.state = advance(STEP, self.state, StepEvent.START).state
            self.started_s = now_s

    def finish(self, now_s: float, **counts: int) -> None:
        self.start(now_s)
        self.state = advance(STEP, self.state, StepEvent.FINISH).state
        self.ended_s = now_s
        self.counts.update(counts)

    def report(self) -> StepReport:
        done = self.state is StepState.DONE
        return StepReport(
            step=self.step,
            state="done" if done else "running",
            started_s=self.started_s,
            ended_s=self.ended_s,
            **self.counts,
        )


@dataclass(slots=True)
class Session:
    key: str
    plan_id: str
    attempt: int
    generate_step: str = ""
    received: int = 0  # tokens that came under tickets
    unopened: dict[str, RemoteSendCall] = field(default_factory=dict)  # sends without pages yet
    steps: dict[str, StepRecord] = field(default_factory=dict)

    @property
    def num_computed(self) -> int:
        """Tokens that steps before the generation have computed: no step counts them again."""
        return sum(record.counts.get("computed", 0) for record in self.steps.values())

    @property
    def is_done(self) -> bool:
        return all(record.state is StepState.DONE for record in self.steps.values())


MAX_ATTEMPTS = 4096  # plans whose newest attempt is remembered after they have ended


class Sessions:
    """Living sessions by key; refuses what is repeated or overtaken by a later attempt."""

    def __init__(self) -> None:
        self._by_key: dict[str, Session] = {}
        self._attempts: OrderedDict[str, int] = OrderedDict()  # the newest, by plan

    def __len__(self) -> int:
        return len(self._by_key)

    def keys(self) -> list[str]:
        return list(self._by_key)

    def get(self, key: str) -> Session | None:
        return self._by_key.get(key)

    def check_newest(self, call: PlanCall) -> None:
        """Raises Gone for an attempt that a later one has overtaken."""
        newest = self._attempts.get(call.plan_id, call.attempt)
        if call.attempt < newest:
            raise Gone(f"Attempt {call.attempt} of the plan was overtaken by attempt {newest}.")

    def check_fresh(self, call: PlanCall) -> None:
        """Raises Conflict for a step that is there already."""
        session = self._by_key.get(call.key)
        for step in call.steps:
            if session is not None and step.step in session.steps:
                raise Conflict(f"Step {step.step} of plan {call.plan_id} was started before.")

    def begin(self, call: PlanCall, now_s: float) -> Session:
        """The plan's session with the call's steps added, all pending."""
        session = self._by_key.get(call.key)
        if session is None:
            session = self._by_key[call.key] = Session(call.key, call.plan_id, call.attempt)
            self._remember(call)
        for step in call.steps:
            session.steps[step.step] = StepRecord(step.step, now_s)
            if isinstance(step, StartGenerateCall):
                session.generate_step = step.step
        return session

    def end(self, key: str) -> Session | None:
        return self._by_key.pop(key, None)

    def _remember(self, call: PlanCall) -> None:
        self._attempts[call.plan_id] = call.attempt
        self._attempts.move_to_end(call.plan_id)
        while len(self._attempts) > MAX_ATTEMPTS:
            self._attempts.popitem(last=False)
