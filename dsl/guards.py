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
from mserve.dsl.unparse import expression


def check_guards(
    strategy: syntax.Strategy, intervals: Intervals, inference: Inference
) -> Iterator[Diagnostic]:
    for route in strategy.routes:
        if route.guard is None:
            continue
        value = intervals.value(route.guard)
        if isinstance(value, Truth) and value.can_hold != value.can_fail:
            hint = _share_hint(route.guard, inference)
            yield constant_guard(route.guard.span, route.name, value.can_hold, hint)


def _share_hint(guard: Expr, inference: Inference) -> str:
    """For a share that is compared with a number of percent without its sign."""
    if not isinstance(guard, syntax.Binary) or not isinstance(guard.right, syntax.Number):
        return ""
    number = guard.right
    if number.unit is not syntax.Unit.NONE or number.value <= 1:
        return ""
    is_share = inference.type_of(guard.left).is_ratio
    return f"a bare {number.text} is {number.value * 100:g}%: write `{number.text}%`" * is_share


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
        message = "a negative bound does not count from the end: below 0 is 0"
        number = 10 if constant is None else -constant
        left_out = f"all but the last {number:g} tokens: `prompt[:tokens(prompt) - {number:g}]`"
        yield doubtful_bound(
            bound.span, message, f"{left_out}; all but the last tenth: `prompt[:90%]`"
        )
    elif found.is_ratio and value.low > 1:
        message = f"this is a ratio of the prompt, and at least {value.low * 100:g}%"
        yield doubtful_bound(bound.span, message, _ratio_hint(constant))
    elif found.untyped and constant is not None and 0 < constant < 1:
        message = f"{constant:.3g} of a token is none: a bare number counts tokens here"
        yield doubtful_bound(bound.span, message, _part_hint(bound, constant))


def _part_hint(bound: Expr, constant: float) -> str:
    hint = f"for a part of the prompt write `{constant * 100:.3g}%`"
    if isinstance(bound, syntax.Binary) and bound.op == "/" and value_of(bound.left) == 1:
        hint += f", or exactly `tokens(prompt) / {expression(bound.right)}`"
    return hint


def _ratio_hint(constant: float | None) -> str:
    if constant is None:
        return (
            "a bare number times a ratio is a ratio; for tokens begin with `tokens(prompt) * ...`"
        )
    if constant < 10:
        return "the prompt ends at `100%`"
    return f"a bare number times a ratio is a ratio; for {constant:g} tokens write `{constant:g}`"
