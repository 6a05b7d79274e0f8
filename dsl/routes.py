"""Whether routes make sense as plans: the order of their steps, and the table as a whole.

Knows nothing of names and types; the joining of ranges is ranges.py's.
"""

from collections.abc import Iterator

from mserve.dsl import syntax
from mserve.dsl.builtins import Stage
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules.routes import (
    missing_generate,
    no_fallback_route,
    self_transfer,
    steps_after_generate,
)
from mserve.dsl.stages import builtin_of
from mserve.dsl.syntax import Expr, Generate, Replicate, Reuse, Step
from mserve.dsl.traversal import walk


def check_fallback(strategy: syntax.Strategy) -> Iterator[Diagnostic]:
    if not strategy.routes:
        yield no_fallback_route(strategy.name_span, None)
        return
    last = strategy.routes[-1]
    if last.guard is not None:
        yield no_fallback_route(last.guard.span, last.name)


def check_steps(route: syntax.Route) -> Iterator[Diagnostic]:
    generates = [step for step in route.steps if isinstance(step, Generate)]
    if not generates:
        yield missing_generate(route.name_span, route.name)
    else:
        yield from _check_order(route, generates[0])
        if generates[-1].count is not None:
            yield missing_generate(route.name_span, route.name, generates[-1].span)
    yield from _check_transfers(route, generates)


def _check_order(route: syntax.Route, first: Generate) -> Iterator[Diagnostic]:
    begun = [step for step in route.steps if step.span.start > first.span.start]
    takes_over = first.count is not None
    for step in begun:
        if isinstance(step, Replicate):
            continue
        if not isinstance(step, Generate):
            message = "the whole prompt is computed before generation begins"
            yield steps_after_generate(step.span, first.span, message)
        elif takes_over:
            takes_over = False
        else:
            yield steps_after_generate(
                step.span, first.span, "decode moves once, after `generate K`"
            )


def _check_transfers(route: syntax.Route, generates: list[Generate]) -> Iterator[Diagnostic]:
    if len(generates) > 1 and _same_worker(generates[0].worker, generates[1].worker):
        spans = generates[1].worker.span, generates[0].worker.span
        yield self_transfer(*spans, "decode moves from a worker to itself")
    for step in route.steps:
        if isinstance(step, Replicate) and generates:
            last = generates[-1].worker
            if _same_worker(step.worker, last):
                message = "the worker that generates has this KV already"
                yield self_transfer(step.worker.span, last.span, message)
        if isinstance(step, Reuse) and generates and _is_only_worker(step, route.steps):
            message = "the worker that generates uses what it has cached anyway"
            yield self_transfer(step.worker.span, generates[0].worker.span, message)


def _is_only_worker(step: Reuse, steps: tuple[Step, ...]) -> bool:
    others = [each.worker for each in steps if each is not step and not isinstance(each, Replicate)]
    return all(_same_worker(step.worker, other) for other in others)


def _same_worker(left: Expr, right: Expr) -> bool:
    """By the same expression, unless it picks anew where it stands."""
    return left == right and not any(
        builtin is not None and builtin.stage is Stage.DISPATCH
        for builtin in map(builtin_of, walk(left))
    )
