"""What a view shows: a strategy over symbols, and the decision it takes in a situation, if one is
given. Everything is computed here once; the formats only word and draw it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mserve.compiler.describe import StrategyPlan, describe
from mserve.compiler.givens import Situation
from mserve.compiler.passes import Draft
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.plan import BindingValue, Plan, StepName
from mserve.compiler.predict import Timeline, critical_path, predict
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
class Decided:
    """`given` is the situation as it was written down; `bindings` and `forecasts` (seconds to the first token by route) are those that were needed,
    `guards` the routes tried; without a possible route, nothing is chosen."""

    situation: Situation
    given: tuple[str, ...]
    bindings: Mapping[str, BindingValue]
    guards: tuple[tuple[str, bool | None], ...]
    forecasts: Mapping[str, float]
    chosen: Chosen | None
    adapted: Mapping[str, tuple[float, float]]  # params that `adapt` would set: from, to


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
    decided = None if situation is None else _decide(strategy, situation, tuple(given))
    return Subject(describe(strategy), tree, strategy.checked.source, decided)


def _decide(strategy: CompiledStrategy, situation: Situation, given: tuple[str, ...]) -> Decided:
    frame = situation.frame(strategy)
    decision = strategy.decide_in(frame)
    chosen = None
    if decision is not None:
        plan = decision.plan
        route = next(route for route in strategy.routes if route.name == plan.route)
        timeline = predict(plan, situation.cluster)
        chosen = Chosen(route.draft(frame), plan, timeline, critical_path(plan, timeline))
    return Decided(
        situation,
        given,
        strategy.bindings(frame),
        tuple(frame.guards),
        dict(frame.forecasts),
        chosen,
        {
            name: (frame.params[name], value)
            for name, value in strategy.adapt_in(frame, strategy.adaptations).items()
        },
    )
