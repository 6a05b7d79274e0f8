"""Whether params, and what tests set them to, are in the ranges they may be set in."""

from collections.abc import Iterator

from mserve.dsl import syntax
from mserve.dsl.constants import value_of
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.inference import Inference
from mserve.dsl.rules.settings import param_out_of_range
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Span
from mserve.dsl.types import UNKNOWN


def check_params(
    strategy: syntax.Strategy, symbols: Symbols, inference: Inference
) -> Iterator[Diagnostic]:
    for param in strategy.params:
        shared = inference.same_units("the range", (param.low, param.high, param.default))
        low, high, default = (value_of(each) for each in (param.low, param.high, param.default))
        if low is None or high is None or default is None or shared == UNKNOWN:
            continue  # reported: not a constant, or not of one unit
        ends = Span(param.low.span.start, param.high.span.end)
        if low > high:
            yield param_out_of_range(
                ends, f"the range of `{param.name}` ends before it begins", None
            )
        elif not low <= default <= high:
            message = f"the default of `{param.name}` lies outside of its range"
            yield param_out_of_range(param.default.span, message, ends)
    for test in strategy.tests:
        for given in test.givens:
            yield from _check_given(given, symbols)


def _check_given(given: syntax.Given, symbols: Symbols) -> Iterator[Diagnostic]:
    if not isinstance(given.target, syntax.Name):
        return
    param = symbols.names.get(given.target.name)
    if not isinstance(param, syntax.Param):
        return
    low, high, value = value_of(param.low), value_of(param.high), value_of(given.value)
    if low is not None and high is not None and value is not None and not low <= value <= high:
        ends = Span(param.low.span.start, param.high.span.end)
        message = f"the value of `{param.name}` lies outside of its range"
        yield param_out_of_range(given.value.span, message, ends)
