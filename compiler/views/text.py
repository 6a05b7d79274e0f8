"""A plan as text for a terminal: the decision table, the steps in order, bars of time."""

from collections.abc import Iterable, Iterator

from mserve.compiler.describe import Labels, StrategyPlan, SymbolicRoute
from mserve.compiler.givens import GivenError
from mserve.compiler.passes import PASSES, Draft
from mserve.compiler.plan import Plan, PrepRecv, RemoteSend, StartGenerate, Step
from mserve.compiler.spelling import spell
from mserve.compiler.views.bars import bar_lines
from mserve.compiler.views.quantities import size
from mserve.compiler.views.subject import Decided, Subject


def write_text(subject: Subject) -> str:
    if subject.decided is None:
        return _lines(_strategy_lines(subject.strategy))
    return _lines(_decision_lines(subject.strategy.name, subject.decided))


def write_decision(subject: Subject) -> str:
    """The decision and its plan, without times."""
    assert subject.decided is not None, "without a situation nothing is decided"
    return _lines(_decision_lines(subject.strategy.name, subject.decided, is_timed=False))


def write_stage(subject: Subject, after: str) -> str:
    """What the pass `after` leaves of every route. Raises GivenError if there is no such pass."""
    return _lines(_strategy_lines(subject.strategy, after))


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines) + "\n"


# --- a strategy over symbols -------------------------------------------------------------------


def _strategy_lines(plan: StrategyPlan, after: str = "") -> Iterator[str]:
    yield f"strategy {plan.name}: {plan.description}"
    for name, default, low, high in plan.params:
        yield f"  param  {name} = {default}  ({low} to {high})"
    for name, workers in plan.pools:
        settings = "".join(f", {setting}" for setting in plan.settings[name])
        yield f"  pool   {name} ({workers} {'worker' if workers == 1 else 'workers'}{settings})"
    for kind, text in plan.others:
        yield f"  {kind:<6} {text}"
    for name, text in plan.bindings:
        yield f"  let    {name} = {text}"
    for route in plan.routes:
        yield ""
        yield f"route {route.name}  {f'when {route.guard}' if route.guard else 'otherwise'}"
        if after:
            yield from _stage_lines(route, after)
        else:
            yield from _plan_lines(route.plan(), route.labels)
    yield ""
    yield NOTATION


NOTATION = (
    "[a, b) is from token a up to, but without, b; n is the prompt's length, ratios are of it"
)


def _stage_lines(route: SymbolicRoute, after: str) -> Iterator[str]:
    names = [run.__name__ for run in PASSES]
    if after not in names:
        raise GivenError(f"there is no pass '{after}'; the passes are: {', '.join(names)}")
    draft = dict(route.stages())[after]
    if draft.steps:
        yield from _plan_lines(Plan("", "", draft.num_tokens, draft.steps), route.labels)
    else:
        yield from _segment_lines(draft, route.labels)


def _segment_lines(draft: Draft, labels: Labels) -> Iterator[str]:
    for worker, begin, end in draft.segments:
        yield f"  [{labels.position(begin)}, {labels.position(end)}) on {labels.worker(worker)}"


def _plan_lines(plan: Plan, labels: Labels, token_bytes: int | None = None) -> Iterator[str]:
    """The steps in the plan's order: each stands below all that it waits for."""
    words = _StepWords(plan, labels, token_bytes)
    names = [labels.worker(step.worker) for step in plan.steps]
    width = max(map(len, names))
    for step, name in zip(plan.steps, names, strict=True):
        yield f"  {step.id:<4}{name:<{width}}  {step.op:<16}{words.of(step)}"


class _StepWords:
    """A step's arguments in words."""

    def __init__(self, plan: Plan, labels: Labels, token_bytes: int | None) -> None:
        self._plan = plan
        self._token_bytes = token_bytes
        self._labels = labels
        self._receivers = {s.ticket: s.worker for s in plan.steps if isinstance(s, PrepRecv)}

    def of(self, step: Step) -> str:
        after = f" after {', '.join(step.after)}" if step.after else ""
        if isinstance(step, PrepRecv):
            return f"{self._range(step.worker, step.begin, step.end)} as {step.ticket}{after}"
        if isinstance(step, RemoteSend):
            return self._send(step) + _with(step.uses) + after
        if isinstance(step, StartGenerate):
            return self._generate(step) + _with(step.uses) + after
        return step.ticket + after

    def _range(self, worker: str, begin: int, end: int) -> str:
        at, cached = self._labels.position, self._labels.cached.get(worker, 0)
        words = f"[{at(begin)}, {at(end)})"
        return words + (f", {min(cached, end) - begin} cached," if cached > begin else "")

    def _send(self, step: RemoteSend) -> str:
        to = [f"{ticket} ({self._receipt(step, ticket)})" for ticket in step.to]
        kept = f" to {', '.join(to)}" if to else " to keep"
        return self._range(step.worker, step.begin, step.end) + kept

    def _receipt(self, step: RemoteSend, ticket: str) -> str:
        """Who gets it and, where numbers are known, how much of it really moves."""
        worker = self._receivers[ticket]
        name = self._labels.worker(worker)
        if self._token_bytes is None:
            return name
        moved = step.end - max(step.begin, self._labels.cached.get(worker, 0))
        return f"{name}, {size(max(0, moved) * self._token_bytes)}"

    def _generate(self, step: StartGenerate) -> str:
        num_tokens = self._plan.num_tokens
        if step.begin >= num_tokens:
            return f"[{self._labels.position(step.begin)}, ...)"
        words = self._range(step.worker, step.begin, num_tokens).removesuffix(",")
        if step.max_tokens is None:
            return words
        return f"{words}, then to {self._labels.position(num_tokens + step.max_tokens - 1)}"


def _with(tickets: tuple[str, ...]) -> str:
    return f" with {', '.join(tickets)}" if tickets else ""


# --- a decision in a situation -----------------------------------------------------------------


def _decision_lines(strategy: str, decided: Decided, *, is_timed: bool = True) -> Iterator[str]:
    cluster = decided.situation.cluster
    yield f"strategy {strategy}, a prompt of {cluster.num_tokens} tokens"
    for name, value in decided.spelled.items():
        yield f"  let    {name} = {value}"
    for name, (before, after) in decided.adapted.items():
        yield f"  adapt  {name} = {after}, from {before}"
    for tried in decided.routes:
        yield f"  route  {tried.route}: {tried}"
    if decided.chosen is None:
        yield "no route is possible: the request waits"
        return
    plan = decided.chosen.plan
    workers = {step.worker: spell(step.worker) for step in plan.steps}
    labels = Labels(workers, cached={w: cluster.cached(w) for w in workers})
    yield ""
    yield f"plan of route {plan.route}"
    yield from _plan_lines(plan, labels, cluster.profile.kv_token_bytes)
    if is_timed:
        yield ""
        yield from bar_lines(decided, decided.chosen, labels)
