"""Which routes can never be taken because an earlier one always is.

A route is passed over when its guard does not hold or something it needs is missing, so a later
route is unreachable only if whenever it could be taken the earlier one could be, too. What a route
needs is compared by syntax: pools that must not be empty, and expressions that must have a value.
"""

from collections.abc import Iterator

from mserve.dsl import syntax
from mserve.dsl.dependencies import Order
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules.routes import unreachable_route
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr
from mserve.dsl.traversal import parts, step_expressions

_MISSING_OVER_NONE = frozenset(["argmin", "argmax", "two_choices", "min", "max", "mean"])

# A pool by its name, or an expression by its tree.
Needs = frozenset[str | Expr]


def check_reachability(
    strategy: syntax.Strategy, symbols: Symbols, order: Order
) -> Iterator[Diagnostic]:
    """A route that is hidden itself hides nothing that the one in front of it does not."""
    candidates: dict[Expr | None, list[syntax.Route]] = {None: []}
    needs = _Needs(symbols, order)
    for route in strategy.routes:
        same = candidates.setdefault(route.guard, [])
        earlier = [*candidates[None], *(same if route.guard is not None else ())]
        hiding = next((each for each in earlier if needs.hides(each, route)), None)
        if hiding is None:
            same.append(route)
            continue
        guard = hiding.guard
        because = hiding.name_span if guard is None else guard.span
        yield unreachable_route(route.name_span, route.name, because, guard is not None)


class _Needs:
    def __init__(self, symbols: Symbols, order: Order) -> None:
        self._symbols = symbols
        self._lets: dict[str, Needs] = {}
        self._steps: dict[int, Needs] = {}  # by the route's identity
        for reference in order.order:
            declaration = None if reference.route else symbols.names[reference.name]
            if isinstance(declaration, syntax.Let):
                self._lets[declaration.name] = self.of(declaration.value)

    def hides(self, earlier: syntax.Route, later: syntax.Route) -> bool:
        """Given that the earlier one's guard holds whenever the later one's does."""
        return self.of_steps(earlier) <= self.of_all(later)

    def of_steps(self, route: syntax.Route) -> Needs:
        known = self._steps.get(id(route))
        if known is None:
            found = (self.of(expr) for step in route.steps for expr in step_expressions(step))
            known = self._steps[id(route)] = frozenset().union(*found)
        return known

    def of_all(self, route: syntax.Route) -> Needs:
        guard = self.of(route.guard) if route.guard is not None else frozenset()
        return guard | self.of_steps(route)

    def of(self, expr: Expr) -> Needs:
        """What must be there for the expression to have a value."""
        match expr:
            case syntax.Name():
                return self._lets.get(expr.name, frozenset())
            case syntax.Fold(op=op) if op in _MISSING_OVER_NONE:
                return self._over(expr, expr.pool) | self.of(expr.value)
            case syntax.Call(name="next" | "random" | "sticky") if expr.args:
                return self._over(expr, expr.args[-1])
            case syntax.Conditional() | syntax.Binary(op="and" | "or"):
                return frozenset([expr])  # what it needs depends on its value
            case syntax.Call() if isinstance(self._symbols.names.get(expr.name), syntax.Def):
                return frozenset([expr])
            case syntax.Call(name="ttft"):
                return frozenset()  # infinite rather than missing
            case _:
                return frozenset().union(*map(self.of, parts(expr)))

    def _over(self, expr: Expr, pool: Expr) -> Needs:
        """A choice over a whole pool needs a worker in it; else it needs to have a value."""
        filtered = isinstance(expr, syntax.Fold) and expr.where is not None
        if isinstance(pool, syntax.Name) and not filtered:
            return frozenset([pool.name])
        return frozenset([expr])
