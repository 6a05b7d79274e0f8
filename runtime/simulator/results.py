"""What came of a simulation: every request's outcome, what was cached of it, every worker's use, faults.

Made from the router's own records of plans. Knows no figures: report.py sums up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xxhash import xxh3_64

from mserve.compiler.plan import StartGenerate
from mserve.runtime.router.plans import PlanRecord
from mserve.runtime.simulator.clock import EPOCH_S
from mserve.runtime.simulator.priced_worker import PricedWorker
from mserve.runtime.traffic.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens of one prompt that were cached: anywhere in the fleet, at a worker of its plan, and
    that were in the end not computed."""

    available: int
    routed: int
    delivered: int


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What one worker did, in all of its lives. `busy_s` is time with a step under way, `num_tokens`
    what steps computed, prompts and answers; `peak_pages` of KV were held by requests at one time."""

    name: str = ""
    pool: str = ""
    busy_s: float = 0.0
    num_steps: int = 0
    num_runs: int = 0
    usd_per_s: float = 0.0
    gpus: int = 1
    num_tokens: int = 0
    max_batch_tokens: int = 0  # that a step may compute
    peak_pages: int = 0
    num_pages: int = 0

    def __add__(self, later: "WorkerUse") -> "WorkerUse":
        """With another life of the same worker."""
        return WorkerUse(
            later.name,
            later.pool,
            self.busy_s + later.busy_s,
            self.num_steps + later.num_steps,
            self.num_runs + later.num_runs,
            later.usd_per_s,
            later.gpus,
            self.num_tokens + later.num_tokens,
            later.max_batch_tokens,
            max(self.peak_pages, later.peak_pages),
            later.num_pages,
        )


@dataclass(frozen=True, slots=True)
class Happened:
    """A worker died, or was back, at a time on the clock of the outcomes."""

    what: Literal["kill", "restart"]
    worker: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.what} {self.worker}"


@dataclass(frozen=True, slots=True)
class Again:
    """How often a request was planned, and what was computed once more for that: tokens of its prompt
    and of the answer that was streamed already, at most (what a lost worker may have computed is taken
    for computed)."""

    num_plans: int = 1
    num_tokens: int = 0


@dataclass(slots=True)
class Result:
    """What came of a simulation. Outcomes are in the order of arrival, cache uses beside them; requests
    that were planned more than once, and why requests failed, are known by their numbers in it.

    `never_came` are faults as they were given, and `doubts` sentences on how far to trust the run;
    `price_source` says who named the price of a GPU.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    cache: list[CacheUse] = field(default_factory=list)
    workers: list[WorkerUse] = field(default_factory=list)
    faults: list[Happened] = field(default_factory=list)
    transferred_bytes: float = 0.0
    num_events: int = 0
    again: Mapping[int, Again] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)  # the error's own words
    never_came: Sequence[str] = ()
    doubts: Sequence[str] = ()
    price_source: str = ""

    @property
    def digest(self) -> str:
        """The same for the same run, in every process."""
        state = xxh3_64()
        for entry in (*self.outcomes, *self.cache, *self.workers, *self.faults):
            state.update(repr(entry).encode())
        return state.hexdigest()


def judged(record: PlanRecord, due_s: float, error: str) -> tuple[Outcome, CacheUse]:
    """Of a request that was due at `due_s`, virtual seconds; `error` is its kind, "" for none."""
    finish, first_s, ended_s = record.finish, record.first_token_s, record.ended_s
    assert ended_s is not None, "a plan that is over has ended"
    plan = record.attempts[-1].decision.plan if record.attempts else None
    steps = plan.steps if plan is not None else ()
    worker = next((step.worker for step in steps[::-1] if isinstance(step, StartGenerate)), "")
    outcome = Outcome(
        arrival_s=due_s,
        first_token_s=None if first_s is None else first_s - EPOCH_S,
        ended_s=max(due_s, ended_s - EPOCH_S),
        num_prompt=record.prompt_tokens,
        num_output=finish.completion_tokens if finish else 0,
        cached=finish.cached_tokens if finish else 0,
        route=plan.route if plan is not None else "",
        worker=worker,
        error=error,
    )
    return outcome, CacheUse(record.cached.available, record.cached.routed, outcome.cached)


def planned_again(record: PlanRecord) -> Again:
    """What is computed in one attempt and had been in an earlier one counts, attempt by attempt."""
    before = num_tokens = streamed = 0
    for attempt in record.attempts:
        computed = sum(step.computed(record.prompt_tokens) for step in attempt.steps.values())
        has_begun = any(step.report is not None for step in attempt.steps.values())
        num_tokens += min(before, computed) + (streamed if has_begun else 0)
        before = max(before, computed)
        streamed += sum(step.streamed for step in attempt.steps.values())
    return Again(len(record.attempts), num_tokens)


def use_of(worker: PricedWorker) -> WorkerUse:
    driver, engine = worker.driver, worker.spec.engine
    return WorkerUse(
        worker.spec.name,
        worker.spec.pool,
        driver.busy_s,
        driver.num_steps,
        driver.num_runs,
        worker.spec.cost.usd_per_s,
        worker.spec.cost.tensor_parallel,
        driver.num_tokens,
        engine.max_batch_tokens,
        driver.peak_pages,
        engine.num_pages,
    )
