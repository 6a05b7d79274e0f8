"""The front end's one entry: a text in, a checked syntax tree or all its problems out.

Runs the checks in order and decides which of them still make sense after other mistakes. Knows
none of the rules itself.
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mserve.dsl import syntax
from mserve.dsl.cost import find_costs
from mserve.dsl.demands import check_types
from mserve.dsl.dependencies import Order, check_cycles, find_order
from mserve.dsl.diagnostics import Diagnostic, Severity
from mserve.dsl.guards import check_bounds, check_guards
from mserve.dsl.inference import Inference
from mserve.dsl.intervals import Intervals
from mserve.dsl.names import check_names
from mserve.dsl.params import check_params
from mserve.dsl.parser import Parsed, parse
from mserve.dsl.ranges import check_ranges
from mserve.dsl.reachability import check_reachability
from mserve.dsl.routes import check_fallback, check_steps
from mserve.dsl.scenarios import check_tests
from mserve.dsl.settings import check_settings
from mserve.dsl.source import Source
from mserve.dsl.stages import check_stages
from mserve.dsl.strange import undecodable
from mserve.dsl.symbols import Symbols, check_duplicates
from mserve.dsl.usage import check_usage, check_variables


@dataclass(frozen=True)
class Checked:
    """`strategy` is set if there is no error (warnings aside); `diagnostics` are in text order."""

    source: Source
    strategy: syntax.Strategy | None
    diagnostics: tuple[Diagnostic, ...]


def check_text(text: str, path: str = "<text>") -> Checked:
    return check_source(Source.from_text(text, path))


def check_bytes(data: bytes, path: str = "<text>") -> Checked:
    """Like `check_text`; bytes that are not UTF-8 are a problem of rule `syntax`."""
    return check_source(Source.from_bytes(data, path))


def check_source(source: Source) -> Checked:
    """Never raises for any text."""
    with _without_collection():
        return _check(source)


@contextmanager
def _without_collection() -> Iterator[None]:
    """A check makes many small objects and drops no cycles: the collector would only search."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check(source: Source) -> Checked:
    parsed = parse(source)
    problems = list(parsed.diagnostics)
    problems += undecodable(source, problems)
    problems += _check_meaning(source, parsed)
    ordered = tuple(sorted(problems, key=lambda each: (each.span.start, each.span.end, each.rule)))
    return Checked(source, None if _has_errors(ordered) else parsed.strategy, ordered)


def _check_meaning(source: Source, parsed: Parsed) -> list[Diagnostic]:
    """All checks of what could be read.

    Bindings and definitions that depend on themselves, or are too expensive, are looked at by no
    check that would follow them.
    """
    strategy = parsed.strategy
    symbols = Symbols.of(strategy, parsed.unread)
    order = find_order(symbols)
    costs = find_costs(strategy, symbols, order)
    endless = costs.refused | {each.name for each in order.cyclic if not each.route}
    inference = Inference(symbols, endless)
    unresolved = list(check_names(strategy, symbols))
    problems = [*unresolved, *check_duplicates(strategy, symbols), *check_cycles(order, symbols)]
    problems += costs.diagnostics
    problems += check_stages(strategy, symbols, order)
    check_types(strategy, symbols, order, inference)
    problems += check_settings(strategy, symbols, inference)
    problems += check_params(strategy, symbols, inference)
    problems += check_tests(strategy, symbols, inference)
    problems += inference.diagnostics
    for route in strategy.routes:
        problems += check_ranges(route, source)
        problems += check_steps(route)
    if not parsed.diagnostics:
        meant = {edit.text for problem in unresolved for edit in problem.fix}
        problems += _check_whole(strategy, symbols, order)
        problems += check_usage(strategy, symbols, inference, meant)
    if not _has_errors(problems):
        intervals = Intervals(symbols, order)
        problems += check_guards(strategy, intervals, inference)
        problems += check_bounds(strategy, intervals, inference)
        problems += check_variables(strategy)
    return problems


def _has_errors(problems: Iterable[Diagnostic]) -> bool:
    return any(problem.severity is Severity.ERROR for problem in problems)


def _check_whole(strategy: syntax.Strategy, symbols: Symbols, order: Order) -> Iterator[Diagnostic]:
    """What only makes sense if nothing of the strategy is missing."""
    yield from check_fallback(strategy)
    yield from check_reachability(strategy, symbols, order)
