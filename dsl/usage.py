"""What a strategy declares and never uses.

Anything is used that an expression outside of `given` names, even where it may not (so of a chain
of unused bindings the last is reported); a pool, if a step's worker may come from it or it is another pool's peer.
"""

from collections.abc import Iterator, Set

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.inference import Inference
from mserve.dsl.references import references
from mserve.dsl.rules.naming import unused_binding, unused_param, unused_pool, unused_variable
from mserve.dsl.settings import POOL, Choice
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr
from mserve.dsl.traversal import evaluated_in_tests, route_expressions, setting_values, walk
from mserve.dsl.types import Kind

_CHOICES = frozenset(["argmin", "argmax", "two_choices"])


def check_usage(
    strategy: syntax.Strategy, symbols: Symbols, inference: Inference, meant: Set[str]
) -> Iterator[Diagnostic]:
    """`meant` are names that were misspelled where they are used."""
    named = {
        reference.name for expr in _uses(strategy) for reference in references(expr, symbols)
    } | meant
    for let in strategy.lets:
        if let.name not in named:
            yield unused_binding(let.name_span, let.name, "binding")
    for definition in strategy.defs:
        if definition.name not in named:
            yield unused_binding(definition.name_span, definition.name, "definition")
    for param in strategy.params:
        if param.name not in named:
            yield unused_param(param.name_span, param.name)
    yield from _check_pools(strategy, inference)


def check_variables(strategy: syntax.Strategy) -> Iterator[Diagnostic]:
    """Choices whose value is the same for all workers."""
    for expr in _uses(strategy):
        for fold in walk(expr):
            if not isinstance(fold, syntax.Fold) or fold.op not in _CHOICES:
                continue
            named = {part.name for part in walk(fold.value) if isinstance(part, syntax.Name)}
            if fold.variable not in named:
                yield unused_variable(fold.variable_span, fold.variable, fold.value.span)


def _uses(strategy: syntax.Strategy) -> Iterator[Expr]:
    yield from (let.value for let in strategy.lets)
    yield from (definition.value for definition in strategy.defs)
    for route in strategy.routes:
        yield from route_expressions(route)
    for param in strategy.params:
        yield from (param.default, param.low, param.high)
    for setting in _settings(strategy):
        assert not isinstance(setting.value, syntax.SettingCall), "setting_values gives leaves"
        if not isinstance(POOL.get(setting.name), Choice):  # `queue = fcfs` names no binding
            yield setting.value
    for test in strategy.tests:
        yield from evaluated_in_tests(test)


def _settings(strategy: syntax.Strategy) -> Iterator[syntax.Setting]:
    for pool in strategy.pools:
        yield from setting_values(pool.settings)
    for slo in strategy.slos:
        yield from setting_values(slo.goals)
    for limits in strategy.limits:
        yield from setting_values(limits.limits)
    for adapt in strategy.adapts:
        yield from setting_values(adapt.updates)


def _check_pools(strategy: syntax.Strategy, inference: Inference) -> Iterator[Diagnostic]:
    workers = [inference.type_of(step.worker) for route in strategy.routes for step in route.steps]
    if any(worker.kind is not Kind.WORKER for worker in workers):
        return  # a mistake that is reported already; any pool may have been meant
    used = {pool for worker in workers for pool in worker.pools} | set(_peers(strategy))
    for pool in strategy.pools:
        if pool.name not in used:
            yield unused_pool(pool.name_span, pool.name)


def _peers(strategy: syntax.Strategy) -> Iterator[str]:
    for pool in strategy.pools:
        for setting in setting_values(pool.settings):
            if isinstance(setting.value, syntax.Name):
                yield setting.value.name
