"""What a view shows: a strategy over symbols, and the decision it takes in a situation, if one is
given. Everything is computed here once; the formats only word and draw it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mserve.compiler.describe import StrategyPlan, describe
from mserve.compiler.frame import Frame
from mserve.compiler.givens import Situation
from mserve.compiler.passes import Draft
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.plan import BindingValue, Plan, StepName
from mserve.compiler.predict import Timeline, critical_path, predict
from mserve.compiler.reasons import Reason, Reasons
from mserve.dsl.source import Source
from mserve.dsl.syntax import Strategy


@dataclass(frozen=True, slots=True)
class Chosen:
    """The route taken, the plan made of it and when its steps would run."""

    draft: Draft  # as the route gave it
    plan: Plan
    timeline: Timeline
    critical: tuple[StepName, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A route in a decision; `holds` is None if something is missing or nobody asked. `reasons` are
    those of its guard, `remark` stands where the guard decided nothing."""

    route: str
    outcome: Literal["taken", "passed over", "not tried"]
    holds: bool | None = None
    reasons: tuple[Reason, ...] = ()
    remark: str = ""

    @property
    def why(self) -> str:
        """A clause in the words of the strategy and the values they had, or nothing."""
        return self.remark or "; ".join(map(str, self.reasons))

    def __str__(self) -> str:
        return f"{self.outcome}, {self.why}" if self.why else self.outcome


@dataclass(frozen=True, slots=True)
class Decided:
    """`given` is the situation as it was written, each on one line; `params` are those it sets, as
    spelled; `bindings`, their values as `spelled`, and `forecasts` (seconds to the first token by
    route) are those that were needed; `routes` are all, in order. Without a possible route, nothing
    is chosen."""

    situation: Situation
    given: tuple[str, ...]
    params: Mapping[str, str]
    bindings: Mapping[str, BindingValue]
    spelled: Mapping[str, str]
    routes: tuple[Tried, ...]
    forecasts: Mapping[str, float]
    chosen: Chosen | None
    adapted: Mapping[str, tuple[str, str]]  # params that `adapt` would set: from, to, as spelled
    adapted_to: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Subject:
    strategy: StrategyPlan
    tree: Strategy
    source: Source
    decided: Decided | None


def subject_of(
    strategy: CompiledStrategy, situation: Situation | None, given: Sequence[str] = ()
) -> Subject:
    tree = strategy.checked.strategy
    assert tree is not None, "a compiled strategy has a tree"
    decided = None if situation is None else _decide(strategy, situation, given)
    return Subject(describe(strategy), tree, strategy.checked.source, decided)


def _decide(strategy: CompiledStrategy, situation: Situation, given: Sequence[str]) -> Decided:
    frame = situation.frame(strategy)
    decision = strategy.decide_in(frame)
    bindings, forecasts = strategy.bindings(frame), dict(frame.forecasts)
    chosen = None
    if decision is not None:
        plan = decision.plan
        route = next(route for route in strategy.routes if route.name == plan.route)
        timeline = predict(plan, situation.cluster)
        chosen = Chosen(route.draft(frame), plan, timeline, critical_path(plan, timeline))
    routes = tuple(_tried(strategy, frame))
    adapted = strategy.adapt_in(frame, strategy.adaptations)
    spell = strategy.spell
    return Decided(
        situation,
        tuple(" ".join(text.split()) for text in given),
        {name: spell(name, value) for name, value in situation.params.items()},
        bindings,
        {name: spell(name, value) for name, value in bindings.items()},
        routes,
        forecasts,
        chosen,
        {name: (spell(name, frame.params[name]), spell(name, to)) for name, to in adapted.items()},
        adapted,
    )


def _tried(strategy: CompiledStrategy, frame: Frame) -> Iterator[Tried]:
    reasons, outcomes = Reasons(strategy, frame), dict(frame.guards)
    for route in strategy.tree.routes:
        if route.name not in outcomes:
            yield Tried(route.name, "not tried")
            continue
        held = outcomes[route.name]
        if held is None:
            missing = reasons.missing(route) or "something it needs"
            yield Tried(route.name, "passed over", remark=f"{missing} is missing")
        elif route.guard is None:
            yield Tried(route.name, "taken", held, remark="it has no guard")
        else:
            why = reasons.of(route.guard)
            yield Tried(route.name, "taken" if held else "passed over", held, why)
