"""From a checked strategy to one that decides: for each request a route, and from it a plan.

The stages, in order: definitions are expanded; expressions and routes become closures; per request
the first route that holds gives a draft, and the draft, by its shape, a plan. Knows no processes.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mserve.compiler.adapt import Adaptation, compile_adapt
from mserve.compiler.definitions import expand_definitions
from mserve.compiler.evaluate import compile_names
from mserve.compiler.frame import MISSING, UNSET, Frame, Missing, Value
from mserve.compiler.lower import Lowering
from mserve.compiler.observe import Observations
from mserve.compiler.plan import (
    BindingValue,
    Choice,
    Decision,
    LimitsSpec,
    ParamSpec,
    Plan,
    PoolSpec,
    SloSpec,
)
from mserve.compiler.predict import predict
from mserve.compiler.routes import CompiledRoute, compile_route
from mserve.compiler.scope import CompileError, Names, Scope
from mserve.compiler.settings import (
    limits_of,
    param_specs,
    pool_specs,
    slo_of,
    unsupported_features,
)
from mserve.compiler.spelling import spell
from mserve.compiler.usage import observations_of
from mserve.dsl.check import Checked
from mserve.dsl.syntax import Strategy
from mserve.dsl.unparse import expression


def compile_strategy(checked: Checked) -> "CompiledStrategy":
    """The strategy of a text without errors, ready to decide. Raises CompileError."""
    if checked.strategy is None:
        raise CompileError("the strategy has errors; see its diagnostics")
    tree = expand_definitions(checked.strategy)
    names = compile_names(tree)
    scope, params = Scope(names), param_specs(tree)
    routes = tuple(compile_route(route, scope) for route in tree.routes)
    adaptations = tuple(compile_adapt(adapt, params, scope) for adapt in tree.adapts)
    return CompiledStrategy(checked, tree, names, routes, adaptations)


class CompiledStrategy:
    """A strategy as the router sees it (observe.Strategy).

    Owns the params' current values; decisions share nothing else but the memo of plan templates.
    """

    version = 1

    def __init__(
        self,
        checked: Checked,
        tree: Strategy,
        names: Names,
        routes: tuple[CompiledRoute, ...],
        adaptations: tuple[Adaptation, ...] = (),
    ) -> None:
        self.checked = checked
        self.tree = tree  # definitions expanded
        self.names = names
        self.routes = routes
        self.adaptations = adaptations
        self.name = tree.name
        self.description = tree.description
        self.pools: tuple[PoolSpec, ...] = pool_specs(tree)
        self.limits: LimitsSpec = limits_of(tree)
        self.slo: SloSpec = slo_of(tree)
        self.params: Mapping[str, ParamSpec] = param_specs(tree)
        self.observes: frozenset[str] = observations_of(tree)
        self.unsupported: tuple[str, ...] = unsupported_features(self.pools)
        self.values = {name: param.default for name, param in self.params.items()}
        self.forecasts_all = False  # a decision has the forecasts of all routes, wanted or not
        self._lowering = Lowering()
        self._let_of = {expression(let.value): let.name for let in tree.lets}

    def set_param(self, name: str, value: float) -> None:
        """Changes a param (base units) from the next decision on. Raises ValueError, a sentence."""
        param = self.params.get(name)
        if param is None:
            known = ", ".join(self.params) or "none"
            raise ValueError(f"strategy '{self.name}' has no param '{name}'; it has: {known}")
        if not param.low <= value <= param.high:
            raise ValueError(self.range_of(name) + f", not {self.spell(name, value)}")
        self.values[name] = value

    def spell(self, name: str, value: Value) -> str:
        """A value of a binding or param in the language's words, with its unit."""
        return spell(value, self.names.type_of_name(name))

    def range_of(self, name: str) -> str:
        """`'tail' goes from 0% to 90%`."""
        low, high = self.params[name].low, self.params[name].high
        return f"'{name}' goes from {self.spell(name, low)} to {self.spell(name, high)}"

    def adapt(self, view: Observations, only: Adaptation | None = None) -> dict[str, float]:
        """What the `adapt` blocks (or one of them) make of the params now, within their ranges.

        Changes nothing: `set_param` does. Of `view` only what is no request's is looked at.
        """
        return self.adapt_in(self.new_frame(view), self.adaptations if only is None else (only,))

    def adapt_in(self, frame: Frame, blocks: Iterable[Adaptation]) -> dict[str, float]:
        """`adapt` in a frame whose params may be others than the current ones."""
        return {name: value for block in blocks for name, value in block.values(frame).items()}

    def decide(self, view: Observations) -> Decision | None:
        """The plan for one request, or None when no route is possible now."""
        return self.decide_in(self.new_frame(view))

    def decide_in(self, frame: Frame) -> Decision | None:
        """`decide` in a frame that may have bindings fixed and shows afterwards what was tried."""
        for route in self.routes:
            plan = self._try_route(route, frame)
            if plan is not None:
                return self._decision(route, plan, frame)
        return None

    def _decision(self, taken: CompiledRoute, plan: Plan, frame: Frame) -> Decision:
        """Forecasts that the strategy did not ask for come last: they must not change anything."""
        decision = Decision(
            plan,
            self.bindings(frame),
            tuple(frame.guards),
            frame.forecasts.get(taken.name),
            self._turns(taken, frame),
            tuple(self._named(choice) for choice in frame.choices),
            tuple(frame.forecasts.items()),
        )
        if not self.forecasts_all:
            return decision
        forecasts = tuple((route.name, self._forecast(frame, route.name)) for route in self.routes)
        return replace(decision, forecasts=forecasts)

    def _try_route(self, route: CompiledRoute, frame: Frame) -> Plan | None:
        """The route's plan if its guard holds and nothing it needs is missing."""
        held: bool | None = None
        try:
            held = route.holds(frame)
            plan = self._plan(route, frame) if held else None
        except Missing:
            held = plan = None
        frame.guards.append((route.name, held))
        return plan

    def _plan(self, route: CompiledRoute, frame: Frame) -> Plan:
        """Raises Missing. A plan that a forecast was made for is not made again."""
        plan = frame.plans.get(route.name)
        return plan or self._lowering.plan(self.name, route.name, route.draft(frame))

    def _named(self, choice: Choice) -> Choice:
        return replace(choice, let=self._let_of.get(choice.expression, ""))

    def _turns(self, taken: CompiledRoute, frame: Frame) -> tuple[int, ...]:
        """Every `next` that was asked, without those that only forecasts of other routes asked."""
        if not frame.turns:
            return ()
        others = {turn for route in self.routes if route is not taken for turn in route.turns}
        return tuple(turn for turn in frame.turns if turn not in others)

    def new_frame(self, view: Observations) -> Frame:
        names = self.names
        return Frame(view, self.values, len(names.let_names), names.num_slots, self._forecast)

    def bindings(self, frame: Frame) -> dict[str, BindingValue]:
        """Every let that was evaluated, in the order of the text; a missing one is None."""
        named = zip(self.names.let_names, frame.lets, strict=True)
        return {
            name: None if value is MISSING else value for name, value in named if value is not UNSET
        }

    def _forecast(self, frame: Frame, name: str) -> float:
        """Predicted time to first token of a route's plan now; infinite if it is impossible."""
        known = frame.forecasts.get(name)
        if known is not None:
            return known
        route = next(route for route in self.routes if route.name == name)
        try:
            plan = frame.plans[name] = self._plan(route, frame)
            time_s = predict(plan, frame.view).first_token_s
        except Missing:
            time_s = math.inf
        frame.forecasts[name] = time_s
        return time_s
