"""Walking expressions: their parts, without recursion, and where they stand in a strategy."""

from collections.abc import Iterator

from mserve.dsl import syntax
from mserve.dsl.syntax import Expr


def parts(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside one, in text order."""
    match expr:
        case syntax.Call():
            return expr.args
        case syntax.Fold():
            return (expr.value, expr.pool, *((expr.where,) if expr.where else ()))
        case syntax.Filter():
            return (expr.pool, *((expr.where,) if expr.where else ()))
        case syntax.Unary():
            return (expr.operand,)
        case syntax.Binary():
            return (expr.left, expr.right)
        case syntax.Conditional():
            return (expr.then, expr.condition, expr.otherwise)
        case syntax.PromptRange():
            return tuple(bound for bound in (expr.begin, expr.end) if bound is not None)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything inside it, outer before inner, in text order."""
    stack = [expr]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(parts(current)))


def step_expressions(step: syntax.Step) -> Iterator[Expr]:
    """What a step evaluates: its bounds or count, then its worker."""
    if isinstance(step, syntax.Generate):
        if step.count is not None:
            yield step.count
    elif isinstance(step.range, syntax.PromptRange):
        yield from parts(step.range)
    yield step.worker


def route_expressions(route: syntax.Route) -> Iterator[Expr]:
    """What a route evaluates: its guard, if it has one, then what its steps do."""
    if route.guard is not None:
        yield route.guard
    for step in route.steps:
        yield from step_expressions(step)


def setting_values(settings: tuple[syntax.Setting, ...]) -> Iterator[syntax.Setting]:
    """Settings that hold a value, those inside variants included."""
    for setting in settings:
        if isinstance(setting.value, syntax.SettingCall):
            yield from setting_values(setting.value.args)
        else:
            yield setting


def evaluated_in_tests(test: syntax.Test) -> Iterator[Expr]:
    """The expressions a test's expectations evaluate."""
    for expectation in test.expectations:
        if isinstance(expectation, syntax.ExpectValue):
            yield from (expectation.target, expectation.value)
        elif isinstance(expectation, syntax.ExpectSends):
            yield from parts(expectation.range)
            yield from (expectation.source, expectation.target)
