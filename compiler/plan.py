"""The contract between the compiler and everything that executes plans (runtime, simulator, verifier).

A `Plan` is what one request does: a straight line of sub-request steps on named workers, a DAG
through `uses` (tickets) and `after` (steps). All positions are token positions in the prompt;
`[begin, end)` is half open. The steps are those of LLM microserving (arXiv 2412.12488, section 3).
Plain frozen dataclasses: cheap on the request path; `schema.py` turns them into JSON and back.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PLAN_VERSION = 1
FIRST_TOKEN = ".first_token"
"""`after` names a step (it is done) or a generating step with this suffix (it has emitted a token)."""

WorkerName = str
TicketName = str
StepName = str


@dataclass(frozen=True, slots=True)
class PrepRecv:
    """`worker` will receive the KV of `[begin, end)`, less what it has cached, under `ticket`."""

    id: StepName
    worker: WorkerName
    begin: int
    end: int
    ticket: TicketName
    after: tuple[StepName, ...] = ()
    op: Literal["prep_recv"] = "prep_recv"


@dataclass(frozen=True, slots=True)
class RemoteSend:
    """`worker` computes what it lacks of `[begin, end)` and sends it under each ticket in `to`.

    The prefix `[0, begin)` is there by then: cached, computed by an earlier step of this plan on the
    same worker, or received under a ticket in `uses`. With an empty `to` it only computes: a later
    step of this plan on the same worker needs the range and no other worker does.
    """

    id: StepName
    worker: WorkerName
    begin: int
    end: int
    to: tuple[TicketName, ...]
    uses: tuple[TicketName, ...] = ()
    after: tuple[StepName, ...] = ()
    op: Literal["remote_send"] = "remote_send"


@dataclass(frozen=True, slots=True)
class StartGenerate:
    """`worker` computes the prompt from `begin` (at least its last token) and generates.

    `max_tokens` is None where the request's own limit holds; a handoff sets it.
    """

    id: StepName
    worker: WorkerName
    begin: int
    uses: tuple[TicketName, ...] = ()
    max_tokens: int | None = None
    after: tuple[StepName, ...] = ()
    op: Literal["start_generate"] = "start_generate"


@dataclass(frozen=True, slots=True)
class Commit:
    """`worker` keeps what arrived under `ticket` as cache."""

    id: StepName
    worker: WorkerName
    ticket: TicketName
    after: tuple[StepName, ...] = ()
    op: Literal["commit"] = "commit"


@dataclass(frozen=True, slots=True)
class Release:
    """`worker` gives back everything under `ticket`."""

    id: StepName
    worker: WorkerName
    ticket: TicketName
    after: tuple[StepName, ...] = ()
    op: Literal["release"] = "release"


Step = PrepRecv | RemoteSend | StartGenerate | Commit | Release
COMPUTING_STEPS = (RemoteSend, StartGenerate)


@dataclass(frozen=True, slots=True)
class Plan:
    """One request's plan. `num_tokens` is the prompt's length; steps stand in dependency order."""

    strategy: str
    route: str
    num_tokens: int
    steps: tuple[Step, ...]
    version: int = PLAN_VERSION


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool as declared: how many workers to start, and its further settings by name.

    A setting is a number in base units or, where the language has a word or `word(name = value)`, a
    dict: `batch = continuous(tokens = 8192)` is `{"kind": "continuous", "tokens": 8192.0}`.
    """

    name: str
    workers: int = 1
    gpus: int = 1
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """A number that may be changed while serving, within `[low, high]`; in base units."""

    name: str
    default: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LimitsSpec:
    """Per-request limits of the strategy: seconds to an answer, plan attempts beyond the first."""

    timeout_s: float = 60.0
    retries: int = 2


@dataclass(frozen=True, slots=True)
class SloSpec:
    """Goals of the strategy, for schedulers and reports: seconds to the first token, and per output
    token after it; None where there is no goal."""

    ttft_s: float | None = None
    tpot_s: float | None = None


BindingValue = float | bool | str | tuple[str, ...] | None


class Candidate(NamedTuple):
    """What a choice saw in one worker: the value, and the summands that it is made of."""

    worker: WorkerName
    value: float
    terms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """An `argmin` or `argmax` that was evaluated: its best candidates, the chosen one first.

    `let` is the name it is bound to, "" for none; `terms` are the summands of its value, in the
    language's words.
    """

    let: str
    expression: str
    terms: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    num_candidates: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a plan is what it is: every evaluated binding and guard, and the plan that came of it.

    A missing value (a choice over no worker) is None; `guards` holds the routes tried, in order.
    `turns` are the places of every `next(...)` that was asked: their counters advance at dispatch.
    `forecasts` are predicted seconds to the first token by route, infinite where it is impossible: of
    those routes that somebody wanted to know it of.
    """

    plan: Plan
    bindings: dict[str, BindingValue]
    guards: tuple[tuple[str, bool | None], ...]
    predicted_ttft_s: float | None = None
    turns: tuple[int, ...] = ()
    choices: tuple[Choice, ...] = ()
    forecasts: tuple[tuple[str, float], ...] = ()
