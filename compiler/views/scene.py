"""What every drawing of a plan shows: workers, what each does and when, and the KV that moves.

Positions on the axis are seconds where times are predicted, else columns in dependency order: a
step stands right of all that it waits for. Knows words and order, neither shapes nor formats.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from mserve.compiler.describe import Labels, SymbolicRoute
from mserve.compiler.origins import Origins, find_origins
from mserve.compiler.plan import (
    FIRST_TOKEN,
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
    StepName,
    TicketName,
)
from mserve.compiler.predict import Timeline
from mserve.compiler.spelling import spell
from mserve.compiler.views.phrases import Phrases
from mserve.compiler.views.quantities import count, duration, size
from mserve.compiler.views.subject import Chosen, Decided, Subject
from mserve.dsl.syntax import Generate, Node, Replicate, Reuse, Route


@dataclass(frozen=True, slots=True)
class Line:
    """A step in the strategy's text and the line where it begins."""

    path: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {self.text}"


@dataclass(frozen=True, slots=True)
class Span:
    """From `begin` to `end` on the axis; at `middle` computing is over and sending or decoding
    goes on alone."""

    begin: float
    middle: float
    end: float


@dataclass(frozen=True, slots=True)
class Act:
    """A step on the axis. `lane` counts workers from the top; `lines` are where it comes from."""

    step: Step
    lane: int
    phrase: str
    span: Span
    lines: tuple[Line, ...]
    is_critical: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """KV on its way from the step `source` to the worker that expects it with the step `target`."""

    ticket: TicketName
    source: StepName
    target: StepName
    amount: str
    begin: float
    end: float
    is_critical: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """One plan. `acts` stand lane by lane, in each by their beginning; `busy_s` is how long each
    lane's worker is still occupied by earlier prompts. `first_token` is its place on the axis."""

    name: str  # of the route
    title: str
    subtitle: str
    lanes: tuple[str, ...]
    busy_s: tuple[float, ...]
    acts: tuple[Act, ...]
    moves: tuple[Move, ...]
    first_token: float
    is_timed: bool

    @property
    def end(self) -> float:
        return max(act.span.end for act in self.acts)

    def act(self, name: StepName) -> Act:
        return next(act for act in self.acts if act.step.id == name)

    def in_order(self) -> list[Act]:
        """The acts in the plan's order, which is one of dependency."""
        return sorted(self.acts, key=lambda act: int(act.step.id[1:]))


def scenes_of(subject: Subject) -> tuple[Scene, ...]:
    """One for each route over symbols; in a situation one for the route taken, if there is one."""
    if subject.decided is None:
        return tuple(_symbolic(subject, route) for route in subject.strategy.routes)
    if subject.decided.chosen is None:
        return ()
    return (_timed(subject, subject.decided, subject.decided.chosen),)


def situation_words(subject: Subject) -> str:
    """`a prompt of 4,000 tokens`, or what is there to know where no route is possible."""
    assert subject.decided is not None, "only a decision has a situation"
    prompt = count(subject.decided.situation.cluster.num_tokens, "token")
    if subject.decided.chosen is None:
        return f"a prompt of {prompt}: no route is possible, the request waits"
    return f"a prompt of {prompt}"


def given_words(decided: Decided) -> str:
    """The situation in the words in which it was given."""
    return f"given {', '.join(decided.given)}"


def guard_words(guard: str | None) -> str:
    return "otherwise" if guard is None else f"when {guard}"


def _symbolic(subject: Subject, route: SymbolicRoute) -> Scene:
    plan = route.plan()
    origins = find_origins(_route(subject, route.name), route.draft, plan)
    builder = _Builder(subject, plan, origins, route.labels, find_columns(plan, origins))
    return Scene(
        route.name,
        f"route {route.name}",
        guard_words(route.guard),
        builder.lanes,
        (0.0,) * len(builder.lanes),
        builder.acts(),
        builder.moves(),
        builder.first_token(),
        is_timed=False,
    )


def _timed(subject: Subject, decided: Decided, chosen: Chosen) -> Scene:
    plan, timeline, cluster = chosen.plan, chosen.timeline, decided.situation.cluster
    workers = {step.worker: spell(step.worker) for step in plan.steps}
    labels = Labels(workers, cached={worker: cluster.cached(worker) for worker in workers})
    spans = find_spans(plan, timeline)
    token_bytes = cluster.profile.kv_token_bytes
    origins = find_origins(_route(subject, plan.route), chosen.draft, plan)
    builder = _Builder(subject, plan, origins, labels, spans, chosen.critical, token_bytes)
    first_token = duration(timeline.first_token_s)
    return Scene(
        plan.route,
        f"route {plan.route}: {situation_words(subject)}, first token after {first_token}",
        given_words(decided),
        builder.lanes,
        tuple(cluster.worker("prefill_backlog", worker) for worker in builder.workers),
        builder.acts(),
        builder.moves(),
        timeline.first_token_s,
        is_timed=True,
    )


def _route(subject: Subject, name: str) -> Route:
    return next(route for route in subject.tree.routes if route.name == name)


# --- where steps stand on the axis -------------------------------------------------------------


def find_spans(plan: Plan, timeline: Timeline) -> dict[StepName, Span]:
    """In seconds. A worker receives from when its sender begins until everything is there."""
    spans = {time.step: Span(time.begin_s, time.computed_s, time.end_s) for time in timeline.steps}
    for step in plan.steps:
        if isinstance(step, PrepRecv):
            begin, end = (
                spans[find_sender(plan, step.ticket).id].begin,
                timeline.arrived_s[step.ticket],
            )
            spans[step.id] = Span(begin, end, end)
        elif isinstance(step, RemoteSend) and any(n.endswith(FIRST_TOKEN) for n in step.after):
            spans[step.id] = replace(spans[step.id], middle=spans[step.id].begin)  # only sends
    return spans


def find_columns(plan: Plan, origins: Origins) -> dict[StepName, Span]:
    """In columns of one. An answer has one for its prompt and one for its tokens; copies after the
    first token stand beside those. Receivers stand with their sender."""
    spans: dict[StepName, Span] = {}
    ends: dict[StepName, float] = {}
    has_answer = False
    for step in plan.steps:
        if isinstance(step, PrepRecv):
            continue
        names = list(step.after)
        if isinstance(step, (RemoteSend, StartGenerate)):
            names += [find_sender(plan, ticket).id for ticket in step.uses]
        begin = max((ends[name] for name in names), default=0.0)
        is_computed = not all(isinstance(each, _COPIES) for each in origins[step.id])
        spans[step.id] = Span(begin, begin + is_computed, begin + 1)
        if isinstance(step, StartGenerate):
            middle = begin if has_answer else begin + 1
            spans[step.id] = Span(begin, middle, middle + 1)
            ends[step.id + FIRST_TOKEN] = middle
            has_answer = True
        ends[step.id] = spans[step.id].end
    for prep in plan.steps:
        if isinstance(prep, PrepRecv):
            spans[prep.id] = spans[find_sender(plan, prep.ticket).id]
    return spans


_COPIES = (Reuse, Replicate, Generate)  # what a send may come from that computes nothing


def find_sender(plan: Plan, ticket: TicketName) -> RemoteSend:
    return next(s for s in plan.steps if isinstance(s, RemoteSend) and ticket in s.to)


# --- acts and moves ----------------------------------------------------------------------------


class _Builder:
    """Makes the acts and moves of one plan; lanes stand in the order in which workers first act."""

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        origins: Origins,
        labels: Labels,
        spans: Mapping[StepName, Span],
        critical: Collection[StepName] = (),
        token_bytes: int | None = None,
    ) -> None:
        self._source = subject.source
        self._plan = plan
        self._labels = labels
        self._spans = spans
        self._critical = critical
        self._token_bytes = token_bytes
        self._origins = origins
        active = [step for step in plan.steps if not isinstance(step, PrepRecv)]
        active.sort(key=lambda step: spans[step.id].begin)
        self.workers = tuple(dict.fromkeys(step.worker for step in active))
        self.lanes = tuple(labels.worker(worker) for worker in self.workers)

    def acts(self) -> tuple[Act, ...]:
        amounts = {move.ticket: move.amount for move in self.moves()}
        phrases = Phrases(self._plan, self._labels, self._origins, self._source, amounts)
        acts = [self._act(step, phrases.of(step)) for step in self._plan.steps]
        return tuple(sorted(acts, key=lambda act: (act.lane, act.span.begin)))

    def _act(self, step: Step, phrase: str) -> Act:
        lines = tuple(dict.fromkeys(self._line(origin) for origin in self._origins[step.id]))
        lane, is_critical = self.workers.index(step.worker), step.id in self._critical
        return Act(step, lane, phrase, self._spans[step.id], lines, is_critical)

    def _line(self, node: Node) -> Line:
        number = self._source.position(node.span.start).line
        return Line(self._source.path, number, self._source.one_line(node.span))

    def first_token(self) -> float:
        """Where the answer begins, on the axis."""
        answer = next(step for step in self._plan.steps if isinstance(step, StartGenerate))
        return self._spans[answer.id].middle

    def moves(self) -> tuple[Move, ...]:
        return tuple(self._move(step) for step in self._plan.steps if isinstance(step, PrepRecv))

    def _move(self, prep: PrepRecv) -> Move:
        send, span = find_sender(self._plan, prep.ticket), self._spans[prep.id]
        is_critical = prep.id in self._critical
        amount = self._amount(send, prep)
        return Move(prep.ticket, send.id, prep.id, amount, span.begin, span.end, is_critical)

    def _amount(self, send: RemoteSend, prep: PrepRecv) -> str:
        """Tokens and bytes, less what the receiver has cached; over symbols the range."""
        if self._token_bytes is None:
            return f"[{self._labels.position(send.begin)}, {self._labels.position(send.end)})"
        begin = max(send.begin, self._labels.cached.get(prep.worker, 0))
        num_tokens = max(0, send.end - begin)
        return f"{count(num_tokens, 'token')} ({size(num_tokens * self._token_bytes)})"
