"""From a checked strategy to one that decides: for each request a route, and from it a plan.

The stages, in order: definitions are expanded; expressions and routes become closures; per request
the first route that holds gives a draft, and the draft, by its shape, a plan. Knows no processes.
"""

import math
from collections.abc import Mapping

from mserve.compiler.definitions import expand_definitions
from mserve.compiler.evaluate import compile_names
from mserve.compiler.frame import MISSING, UNSET, Frame, Missing
from mserve.compiler.lower import Lowering
from mserve.compiler.observe import Observations
from mserve.compiler.passes import Draft
from mserve.compiler.plan import BindingValue, Decision, LimitsSpec, PoolSpec
from mserve.compiler.predict import predict
from mserve.compiler.routes import CompiledRoute, compile_route
from mserve.compiler.scope import CompileError, Names, Scope
from mserve.compiler.settings import (
    ParamSpec,
    limits_of,
    param_specs,
    pool_specs,
    unsupported_features,
)
from mserve.compiler.usage import observations_of
from mserve.dsl.check import Checked
from mserve.dsl.syntax import Strategy


def compile_strategy(checked: Checked) -> "CompiledStrategy":
    """The strategy of a text without errors, ready to decide. Raises CompileError."""
    if checked.strategy is None:
        raise CompileError("the strategy has errors; see its diagnostics")
    tree = expand_definitions(checked.strategy)
    names = compile_names(tree)
    routes = tuple(compile_route(route, Scope(names)) for route in tree.routes)
    return CompiledStrategy(checked, tree, names, routes)


class CompiledStrategy:
    """A strategy as the router sees it (observe.Strategy).

    Owns the params' current values; decisions share nothing else but the memo of plan templates.
    """

    def __init__(
        self, checked: Checked, tree: Strategy, names: Names, routes: tuple[CompiledRoute, ...]
    ) -> None:
        self.checked = checked
        self.tree = tree  # definitions expanded
        self.names = names
        self.routes = routes
        self.name = tree.name
        self.description = tree.description
        self.pools: tuple[PoolSpec, ...] = pool_specs(tree)
        self.limits: LimitsSpec = limits_of(tree)
        self.params: Mapping[str, ParamSpec] = param_specs(tree)
        self.observes: frozenset[str] = observations_of(tree)
        self.unsupported: tuple[str, ...] = unsupported_features(tree, self.pools)
        self.values = {name: param.default for name, param in self.params.items()}
        self._lowering = Lowering()

    def set_param(self, name: str, value: float) -> None:
        """Changes a param (base units) from the next decision on. Raises ValueError, a sentence."""
        param = self.params.get(name)
        if param is None:
            known = ", ".join(self.params) or "none"
            raise ValueError(f"strategy '{self.name}' has no param '{name}'; it has: {known}")
        if not param.low <= value <= param.high:
            raise ValueError(f"'{name}' goes from {param.low:g} to {param.high:g}, not {value:g}")
        self.values[name] = value

    def decide(self, view: Observations) -> Decision | None:
        """The plan for one request, or None when no route is possible now."""
        return self.decide_in(self.new_frame(view))

    def decide_in(self, frame: Frame) -> Decision | None:
        """`decide` in a frame that may have bindings fixed and shows afterwards what was tried."""
        for route in self.routes:
            draft = _try_route(route, frame)
            if draft is not None:
                plan = self._lowering.plan(self.name, route.name, draft)
                return Decision(
                    plan,
                    self.bindings(frame),
                    tuple(frame.guards),
                    frame.forecasts.get(route.name),
                    tuple(frame.turns),
                )
        return None

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
            plan = self._lowering.plan(self.name, name, route.draft(frame))
            time_s = predict(plan, frame.view).first_token_s
        except Missing:
            time_s = math.inf
        frame.forecasts[name] = time_s
        return time_s


def _try_route(route: CompiledRoute, frame: Frame) -> Draft | None:
    """The route's draft if its guard holds and nothing it needs is missing."""
    held: bool | None = None
    try:
        held = route.holds(frame)
        draft = route.draft(frame) if held else None
    except Missing:
        held = draft = None
    frame.guards.append((route.name, held))
    return draft
