"""`mserve plan`: a strategy's plans as text for people or JSON for programs.

Pure functions of a compiled strategy and a situation; nothing here decides anything.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from mserve.compiler.describe import Labels, StrategyPlan, SymbolicRoute, describe
from mserve.compiler.frame import Frame
from mserve.compiler.givens import GivenError, Situation, situation_from_text
from mserve.compiler.passes import PASSES, Draft
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.plan import (
    Decision,
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
)
from mserve.compiler.predict import StepTime, Timeline, predict
from mserve.compiler.testing import spell

_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What `mserve plan` was asked: texts as on the command line, all optional."""

    cluster: Sequence[str] = ()  # "decode=4"
    givens: Sequence[str] = ()  # "tokens(prompt) = 4000"
    params: Sequence[str] = ()  # "tail=20%"
    after: str = ""  # name of a pass: show what it leaves

    @property
    def is_concrete(self) -> bool:
        return bool(self.cluster or self.givens or self.params)


def plan_text(strategy: CompiledStrategy, asked: PlanRequest) -> str:
    """Without a situation the plan of every route over symbols, else the decision and its plan.

    Raises GivenError.
    """
    if not asked.is_concrete:
        return _lines(_strategy_lines(describe(strategy), asked.after))
    if asked.after:
        raise GivenError("what a pass leaves can be shown only without a situation")
    situation = situation_from_text(strategy, asked.cluster, asked.givens, asked.params)
    frame = situation.frame(strategy)
    return _lines(_decision_lines(strategy, situation, frame, strategy.decide_in(frame)))


def plan_json(strategy: CompiledStrategy, asked: PlanRequest) -> str:
    """The same as JSON. Raises GivenError."""
    if not asked.is_concrete:
        return json.dumps(_strategy_data(describe(strategy)), indent=2)
    situation = situation_from_text(strategy, asked.cluster, asked.givens, asked.params)
    frame = situation.frame(strategy)
    return json.dumps(_decision_data(strategy, situation, frame), indent=2)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines) + "\n"


# --- a strategy over symbols -------------------------------------------------------------------


def _strategy_lines(plan: StrategyPlan, after: str) -> Iterator[str]:
    yield f"strategy {plan.name}: {plan.description}"
    for name, default, low, high in plan.params:
        yield f"  param  {name} = {default}  ({low} to {high})"
    for name, workers in plan.pools:
        yield f"  pool   {name} ({workers} {'worker' if workers == 1 else 'workers'})"
    for name, text in plan.bindings:
        yield f"  let    {name} = {text}"
    for route in plan.routes:
        yield ""
        yield f"route {route.name}  {f'when {route.guard}' if route.guard else 'otherwise'}"
        if after:
            yield from _stage_lines(route, after)
        else:
            yield from _plan_lines(route.plan(), route.labels)


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


def _plan_lines(plan: Plan, labels: Labels) -> Iterator[str]:
    """The steps of each worker together, in the order in which the workers first act."""
    words = _StepWords(plan, labels)
    for worker in dict.fromkeys(step.worker for step in plan.steps):
        yield f"  {labels.worker(worker)}"
        for step in plan.steps:
            if step.worker == worker:
                yield f"    {step.id:<4}{step.op:<16}{words.of(step)}"


class _StepWords:
    """A step's arguments in words."""

    def __init__(self, plan: Plan, labels: Labels) -> None:
        self._plan = plan
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
        to = [f"{ticket} ({self._labels.worker(self._receivers[ticket])})" for ticket in step.to]
        kept = f" to {', '.join(to)}" if to else " to keep"
        return self._range(step.worker, step.begin, step.end) + kept

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


def _strategy_data(plan: StrategyPlan) -> dict[str, object]:
    return {
        "strategy": plan.name,
        "description": plan.description,
        "params": [
            dict(zip(("name", "default", "low", "high"), p, strict=True)) for p in plan.params
        ],
        "pools": [{"name": name, "workers": workers} for name, workers in plan.pools],
        "bindings": [{"name": name, "value": text} for name, text in plan.bindings],
        "routes": [_route_data(route) for route in plan.routes],
    }


def _route_data(route: SymbolicRoute) -> dict[str, object]:
    labels = route.labels
    steps = []
    for step in route.plan().steps:
        data = {**asdict(step), "worker": labels.worker(step.worker)}
        for bound in ("begin", "end"):
            if bound in data:
                data[bound] = labels.position(data[bound])
        steps.append(data)
    return {"name": route.name, "when": route.guard, "steps": steps}


# --- a decision in a situation -----------------------------------------------------------------


def _decision_lines(
    strategy: CompiledStrategy, situation: Situation, frame: Frame, decision: Decision | None
) -> Iterator[str]:
    yield f"strategy {strategy.name}, a prompt of {situation.cluster.num_tokens} tokens"
    for name, value in strategy.bindings(frame).items():
        yield f"  let    {name} = {spell(value)}"
    for name, held in frame.guards:
        yield f"  route  {name}: {_OUTCOMES[held]}"
    if decision is None:
        yield "no route is possible: the request waits"
        return
    plan = decision.plan
    workers = {step.worker: spell(step.worker) for step in plan.steps}
    labels = Labels(workers, cached={w: situation.cluster.cached(w) for w in workers})
    yield ""
    yield f"plan of route {plan.route}"
    yield from _plan_lines(plan, labels)
    yield ""
    yield from _timeline_lines(plan, predict(plan, situation.cluster), labels, situation)


_OUTCOMES = {True: "taken", False: "its guard does not hold", None: "something it needs is missing"}


def _timeline_lines(
    plan: Plan, timeline: Timeline, labels: Labels, situation: Situation
) -> Iterator[str]:
    """Bars up to the first token; what ends later is cut off there."""
    profile = situation.cluster.profile.name
    yield f"predicted with the cost profile {profile}: first token at {_ms(timeline.first_token_s)}"
    width = max(len(labels.worker(step.worker)) for step in plan.steps)
    for step, time in zip(plan.steps, timeline.steps, strict=True):
        if not isinstance(step, PrepRecv):
            worker = labels.worker(step.worker)
            until = f"{_ms(time.begin_s)} to {_ms(time.end_s)}"
            yield f"  {worker:<{width}}  {step.id:<4}|{_bar(time, timeline)}|  {until}"


def _bar(time: StepTime, timeline: Timeline) -> str:
    scale = _BAR_WIDTH / timeline.first_token_s if timeline.first_token_s else 0.0
    begin = min(_BAR_WIDTH - 1, round(time.begin_s * scale))
    end = min(_BAR_WIDTH, max(begin + 1, round(time.end_s * scale)))
    return (" " * begin + "=" * (end - begin)).ljust(_BAR_WIDTH)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"


def _decision_data(
    strategy: CompiledStrategy, situation: Situation, frame: Frame
) -> dict[str, object]:
    decision = strategy.decide_in(frame)
    data: dict[str, object] = {
        "strategy": strategy.name,
        "profile": situation.cluster.profile.name,
        "num_tokens": situation.cluster.num_tokens,
        "bindings": strategy.bindings(frame),
        "guards": [{"route": name, "holds": held} for name, held in frame.guards],
        "plan": None,
        "timeline": None,
    }
    if decision is not None:
        data["plan"] = asdict(decision.plan)
        data["timeline"] = asdict(predict(decision.plan, situation.cluster))
    return data
