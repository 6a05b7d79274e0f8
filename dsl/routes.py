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
from mserve.dsl.unparse import expression


def check_fallback(strategy: syntax.Strategy) -> Iterator[Diagnostic]:
    pool = strategy.pools[0].name if strategy.pools else "POOL"
    if not strategy.routes:
        yield no_fallback_route(strategy.name_span, None, pool)
        return
    last = strategy.routes[-1]
    if last.guard is not None:
        yield no_fallback_route(last.guard.span, last.name, pool)


def check_steps(route: syntax.Route) -> Iterator[Diagnostic]:
    generates = [step for step in route.steps if isinstance(step, Generate)]
    if not generates:
        yield missing_generate(route.name_span, route.name)
    else:
        yield from _check_order(route, generates[0])
        if generates[-1].count is not None and generates[0].count is not None:
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
            hint = "move this step above `generate`"
            yield steps_after_generate(step.span, first.span, message, hint)
        elif takes_over:
            takes_over = False
        else:
            yield steps_after_generate(step.span, first.span, *_second_generate(first, step))


def _second_generate(first: Generate, step: Generate) -> tuple[str, str]:
    """What is wrong with one more `generate`, and what to write."""
    if first.count is not None:
        return "an answer is handed over once", "leave one of the `generate` steps out"
    begun, goes_on = expression(first.worker), expression(step.worker)
    hint = f"to go on elsewhere after 16 tokens: `generate 16 on {begun}  generate on {goes_on}`"
    return "the answer is generated already, to its end", hint


def _check_transfers(route: syntax.Route, generates: list[Generate]) -> Iterator[Diagnostic]:
    if len(generates) > 1 and _same_worker(generates[0].worker, generates[1].worker):
        spans = generates[1].worker.span, generates[0].worker.span
        hint = f"leave the count out: `generate on {expression(generates[0].worker)}`"
        yield self_transfer(*spans, "the answer is handed over from a worker to itself", hint)
    for step in route.steps:
        if isinstance(step, Replicate) and generates:
            last = generates[-1].worker
            if _same_worker(step.worker, last):
                message = "the worker that generates has this KV already"
                hint = "replicate to another worker, or leave this step out"
                yield self_transfer(step.worker.span, last.span, message, hint)
        if isinstance(step, Reuse) and generates and _is_only_worker(step, route.steps):
            message = "the worker that generates uses what it has cached anyway"
            spans = step.worker.span, generates[0].worker.span
            yield self_transfer(*spans, message, "leave this step out")


def _is_only_worker(step: Reuse, steps: tuple[Step, ...]) -> bool:
    others = [each.worker for each in steps if each is not step and not isinstance(each, Replicate)]
    return all(_same_worker(step.worker, other) for other in others)


def _same_worker(left: Expr, right: Expr) -> bool:
    """By the same expression, unless it picks anew where it stands."""
    return left == right and not any(
        builtin is not None and builtin.stage is Stage.DISPATCH
        for builtin in map(builtin_of, walk(left))
    )
