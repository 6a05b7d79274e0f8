"""What a part of a strategy refers to: declarations by name, routes by `ttft`.

Expects resolved names (a comprehension's variable that hides a declaration is a mistake already).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.dsl import syntax
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr
from mserve.dsl.traversal import parts, step_expressions


@dataclass(frozen=True, slots=True)
class Reference:
    """`route` tells the routes' namespace from the other one."""

    name: str
    route: bool = False


def route_asked(expr: syntax.Call) -> syntax.Name | None:
    """The route whose plan `ttft(ROUTE)` predicts."""
    if expr.name == "ttft" and len(expr.args) == 1 and isinstance(expr.args[0], syntax.Name):
        return expr.args[0]
    return None


def inside(expr: Expr) -> Iterator[Expr]:
    """Like `walk`, without names of routes."""
    stack = [expr]
    while stack:
        current = stack.pop()
        yield current
        if not (isinstance(current, syntax.Call) and route_asked(current)):
            stack.extend(reversed(parts(current)))


def references(expr: Expr, symbols: Symbols) -> Iterator[Reference]:
    """Params, pools, lets, defs and routes that an expression names."""
    for part in inside(expr):
        if isinstance(part, (syntax.Name, syntax.Call)) and part.name in symbols.names:
            yield Reference(part.name)
        if isinstance(part, syntax.WorkerAt) and part.pool in symbols.names:
            yield Reference(part.pool)
        route = route_asked(part) if isinstance(part, syntax.Call) else None
        if route is not None and route.name in symbols.routes:
            yield Reference(route.name, route=True)


def plan_references(route: syntax.Route, symbols: Symbols) -> Iterator[Reference]:
    """What the plan of a route needs: its steps' workers and ranges, not its guard."""
    for step in route.steps:
        for expr in step_expressions(step):
            yield from references(expr, symbols)
