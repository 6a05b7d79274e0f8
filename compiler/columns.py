"""Folds over many workers, a column at a time: one list comprehension per operator instead of one
call per operator and worker. What does not depend on the worker is evaluated once.

The same values as the elementwise form, which stays for whatever may be evaluated in part only
(`and`, `or`, conditionals) and for comprehensions in comprehensions.
"""

import operator
from collections.abc import Callable, Mapping, Sequence

from mserve.compiler.arithmetic import FUNCTIONS
from mserve.compiler.choices import Column
from mserve.compiler.frame import Evaluator, Frame, Value
from mserve.compiler.observe import TIMES, WORKER_OBSERVATIONS
from mserve.compiler.plan import WorkerName
from mserve.dsl.constants import divide
from mserve.dsl.syntax import Binary, Call, Expr, Name
from mserve.dsl.traversal import walk

Columns = tuple[Column, ...]


def compile_column(
    expr: Expr,
    variable: str,
    elementwise: Callable[[Expr], Column],
    once: Callable[[Expr], Evaluator],
) -> Column:
    """The column of `expr`; `elementwise` and `once` compile an expression inside and outside of
    the comprehension."""

    def compile_part(part: Expr) -> Column:
        if not _mentions(part, variable):
            return _repeated(once(part))
        if isinstance(part, Name):
            return lambda frame, workers: list(workers)
        if isinstance(part, Binary) and part.op in _BINARY:
            return _BINARY[part.op](compile_part(part.left), compile_part(part.right))
        if isinstance(part, Call) and (call := _call(part)):
            return call(tuple(compile_part(arg) for arg in part.args))
        return elementwise(part)

    return compile_part(expr)


def _mentions(expr: Expr, variable: str) -> bool:
    return any(isinstance(node, Name) and node.name == variable for node in walk(expr))


def _repeated(evaluate: Evaluator) -> Column:
    return lambda frame, workers: [evaluate(frame)] * len(workers)


# --- operators ---------------------------------------------------------------------------------


def _add(left: Column, right: Column) -> Column:
    def column(frame: Frame, workers: Sequence[WorkerName]) -> list[Value]:
        pairs = zip(left(frame, workers), right(frame, workers), strict=True)
        return [v if (v := a + b) == v else 0.0 for a, b in pairs]

    return column


def _subtract(left: Column, right: Column) -> Column:
    def column(frame: Frame, workers: Sequence[WorkerName]) -> list[Value]:
        pairs = zip(left(frame, workers), right(frame, workers), strict=True)
        return [v if (v := a - b) == v else 0.0 for a, b in pairs]

    return column


def _multiply(left: Column, right: Column) -> Column:
    def column(frame: Frame, workers: Sequence[WorkerName]) -> list[Value]:
        pairs = zip(left(frame, workers), right(frame, workers), strict=True)
        return [v if (v := a * b) == v else 0.0 for a, b in pairs]

    return column


def _mapped(function: Callable[[Value, Value], Value]) -> Callable[[Column, Column], Column]:
    return lambda left, right: (
        lambda frame, workers: list(map(function, left(frame, workers), right(frame, workers)))
    )


_BINARY: Mapping[str, Callable[[Column, Column], Column]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _mapped(divide),
    "<": _mapped(operator.lt),
    "<=": _mapped(operator.le),
    ">": _mapped(operator.gt),
    ">=": _mapped(operator.ge),
    "==": _mapped(operator.eq),
    "!=": _mapped(operator.ne),
}


# --- observations ------------------------------------------------------------------------------


def _call(expr: Call) -> Callable[[Columns], Column] | None:
    if expr.name in TIMES or expr.name == "cached":
        return lambda args: _method(expr.name, args)
    if expr.name in WORKER_OBSERVATIONS:
        return lambda args: _worker_observation(expr.name, args[0])
    if expr.name in FUNCTIONS:
        return lambda args: _function(FUNCTIONS[expr.name], args)
    return None


def _function(function: Callable[..., Value], args: Columns) -> Column:
    return lambda frame, workers: list(map(function, *[arg(frame, workers) for arg in args]))


def _method(name: str, args: Columns) -> Column:
    """`cached(w)`, `prefill_time(n, w)`, ...: the view's method of this name, mapped."""

    def column(frame: Frame, workers: Sequence[WorkerName]) -> list[Value]:
        return list(map(getattr(frame.view, name), *[arg(frame, workers) for arg in args]))

    return column


def _worker_observation(name: str, worker: Column) -> Column:
    def column(frame: Frame, workers: Sequence[WorkerName]) -> list[Value]:
        observe = frame.view.worker
        return [observe(name, w) for w in worker(frame, workers)]

    return column
