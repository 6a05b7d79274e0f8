"""Which types a strategy's declarations demand of their expressions.

Drives inference.py over bindings, definitions, routes and `adapt`, in an order in which no binding
waits for another. Settings, params and tests ask inference themselves.
"""

from mserve.dsl import syntax
from mserve.dsl.dependencies import Order
from mserve.dsl.inference import Inference
from mserve.dsl.symbols import Symbols
from mserve.dsl.traversal import parts
from mserve.dsl.types import BOOL, COUNT, DURATION, UNKNOWN, WORKER


def check_types(
    strategy: syntax.Strategy, symbols: Symbols, order: Order, inference: Inference
) -> None:
    """Collects its findings in `inference.diagnostics`."""
    for reference in order.order:
        declaration = None if reference.route else symbols.names[reference.name]
        if isinstance(declaration, syntax.Let):
            inference.let(declaration)
        elif isinstance(declaration, syntax.Def):
            inference.definition(declaration)
    for hidden in strategy.lets:
        if symbols.names[hidden.name] is not hidden:
            inference.type_of(hidden.value)
    for route in strategy.routes:
        _check_route(route, inference)
    for adapt in strategy.adapts:
        _check_adapt(adapt, symbols, inference)


def _check_route(route: syntax.Route, inference: Inference) -> None:
    if route.guard is not None:
        inference.expect(route.guard, BOOL)
    for step in route.steps:
        if isinstance(step, syntax.Generate):
            if step.count is not None:
                inference.expect(step.count, COUNT)
        elif isinstance(step.range, syntax.PromptRange):
            for bound in parts(step.range):
                inference.expect_bound(bound)
        inference.expect(step.worker, WORKER)


def _check_adapt(adapt: syntax.Adapt, symbols: Symbols, inference: Inference) -> None:
    inference.expect(adapt.every, DURATION, unit="s")
    for update in adapt.updates:
        assert not isinstance(update.value, syntax.SettingCall), "the grammar says `= EXPR`"
        param = symbols.names.get(update.name)
        wanted = inference.param(param) if isinstance(param, syntax.Param) else UNKNOWN
        inference.expect(update.value, wanted)
