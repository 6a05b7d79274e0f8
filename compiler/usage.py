"""Which observations a strategy uses, so that the router need not fetch the others."""

from collections.abc import Iterator

from mserve.compiler.observe import REQUEST_OBSERVATIONS, TIMES, WORKER_OBSERVATIONS
from mserve.dsl.syntax import Call, Expr, Generate, Name, SettingCall, Strategy, Text
from mserve.dsl.traversal import route_expressions, walk

_NAMES = WORKER_OBSERVATIONS | REQUEST_OBSERVATIONS | TIMES | {"cached", "max_tokens"}
_PREDICTION = {"cached", "prefill_backlog", "expected_output"} | TIMES - {"evict_time"}


def observations_of(strategy: Strategy) -> frozenset[str]:
    """Names of the language; `header:x-name` for headers. A plan over several workers needs
    `cached`, a predicted time all that predictions are made of."""
    found = {name for expr in _expressions(strategy) for name in _observed(expr)}
    if any(not isinstance(s, Generate) for route in strategy.routes for s in route.steps):
        found.add("cached")
    return frozenset(found)


def _expressions(strategy: Strategy) -> Iterator[Expr]:
    for let in strategy.lets:
        yield from walk(let.value)
    for route in strategy.routes:
        for expr in route_expressions(route):
            yield from walk(expr)
    for adapt in strategy.adapts:
        for update in adapt.updates:
            assert not isinstance(update.value, SettingCall), "the grammar says `= EXPR`"
            yield from walk(update.value)


def _observed(expr: Expr) -> Iterator[str]:
    if isinstance(expr, Call) and expr.name == "header" and isinstance(expr.args[0], Text):
        yield f"header:{expr.args[0].value.lower()}"
    elif isinstance(expr, Call) and expr.name == "ttft":
        yield from _PREDICTION
    elif isinstance(expr, (Call, Name)) and expr.name in _NAMES:
        yield expr.name
