"""Which guards always, or never, hold, and which ranges cannot be what was meant.

Both by evaluation over intervals (intervals.py), so only what holds for all values is reported.
"""

from collections.abc import Iterator

from mserve.dsl import syntax
from mserve.dsl.constants import value_of
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.inference import Inference
from mserve.dsl.intervals import Interval, Intervals, Truth
from mserve.dsl.rules.prompt import doubtful_bound
from mserve.dsl.rules.routes import constant_guard
from mserve.dsl.syntax import Expr
from mserve.dsl.traversal import parts


def check_guards(strategy: syntax.Strategy, intervals: Intervals) -> Iterator[Diagnostic]:
    for route in strategy.routes:
        if route.guard is None:
            continue
        value = intervals.value(route.guard)
        if isinstance(value, Truth) and value.can_hold != value.can_fail:
            yield constant_guard(route.guard.span, route.name, value.can_hold)


def check_bounds(
    strategy: syntax.Strategy, intervals: Intervals, inference: Inference
) -> Iterator[Diagnostic]:
    for route in strategy.routes:
        for step in route.steps:
            if isinstance(step, syntax.Generate) or isinstance(step.range, syntax.Rest):
                continue
            for bound in parts(step.range):
                yield from _check_bound(bound, intervals, inference)


def _check_bound(bound: Expr, intervals: Intervals, inference: Inference) -> Iterator[Diagnostic]:
    value, found = intervals.value(bound), inference.type_of(bound)
    if not isinstance(value, Interval):
        return
    constant = value_of(bound)
    if value.high < 0:
        message = "this bound is before the prompt's beginning: below 0 is 0"
        help_ = "count from the end with a ratio, `prompt[:100% - tail]`, or `tokens(prompt) - 10`"
        yield doubtful_bound(bound.span, message, help_)
    elif found.is_ratio and value.low > 1:
        message = f"this is a ratio of the prompt, and at least {value.low * 100:g}%"
        yield doubtful_bound(bound.span, message, _ratio_hint(constant))
    elif found.untyped and constant is not None and 0 < constant < 1:
        message = f"{constant:g} of a token is none: a bare number counts tokens here"
        yield doubtful_bound(
            bound.span, message, f"for a part of the prompt write `{constant * 100:g}%`"
        )


def _ratio_hint(constant: float | None) -> str:
    if constant is None:
        return (
            "a bare number times a ratio is a ratio; for tokens begin with `tokens(prompt) * ...`"
        )
    if constant < 10:
        return "the prompt ends at `100%`"
    return f"a bare number times a ratio is a ratio; for {constant:g} tokens write `{constant:g}`"
