"""Expressions as closures: the tree is read once, at compile time; a decision only calls them.

A closure takes the decision's Frame and raises Missing where its value is missing. The checker has
seen to types and names; what operators and choices do is arithmetic.py's and choices.py's.
"""

from collections.abc import Callable, Mapping
from functools import partial

from mserve.compiler import arithmetic, choices
from mserve.compiler.columns import compile_column
from mserve.compiler.frame import Evaluator, Frame, Missing, Value
from mserve.compiler.observe import REQUEST_OBSERVATIONS, TIMES, WORKER_OBSERVATIONS
from mserve.compiler.scope import CompileError, Names, Scope
from mserve.dsl import unparse
from mserve.dsl.syntax import (
    Binary,
    Boolean,
    Call,
    Conditional,
    Expr,
    Filter,
    Fold,
    Name,
    Number,
    PromptRange,
    Strategy,
    Text,
    Unary,
    WorkerAt,
)

Bound = Callable[[Frame], int]


def compile_names(strategy: Strategy) -> Names:
    """The names of a strategy, its lets compiled. Raises CompileError."""
    return Names(strategy, compile_expression)


def compile_expression(expr: Expr, scope: Scope) -> Evaluator:
    if isinstance(expr, (Number, Text, Boolean)):
        return _constant(expr.value)
    if isinstance(expr, Name):
        return _name(expr.name, scope)
    if isinstance(expr, Unary):
        return arithmetic.UNARY[expr.op](compile_expression(expr.operand, scope))
    if isinstance(expr, (Binary, Conditional)):
        return _operation(expr, scope)
    if isinstance(expr, Call):
        return _call(expr, scope)
    if isinstance(expr, (Fold, Filter)):
        return _comprehension(expr, scope)
    if isinstance(expr, WorkerAt):
        return _worker_at(expr.pool, expr.index)
    raise CompileError("a range of the prompt has no value of its own")


def _operation(expr: Binary | Conditional, scope: Scope) -> Evaluator:
    if isinstance(expr, Binary):
        left, right = compile_expression(expr.left, scope), compile_expression(expr.right, scope)
        return arithmetic.BINARY[expr.op](left, right)
    return arithmetic.choose(
        compile_expression(expr.condition, scope),
        compile_expression(expr.then, scope),
        compile_expression(expr.otherwise, scope),
    )


# --- names -------------------------------------------------------------------------------------


def _constant(value: Value) -> Evaluator:
    return lambda frame: value


def _name(name: str, scope: Scope) -> Evaluator:
    if name in scope.variables:
        slot = scope.variables[name]
        return lambda frame: frame.slots[slot]
    if scope.names.has_let(name):
        return scope.names.let(name)
    if name in scope.names.params:
        return lambda frame: frame.params[name]
    if name in scope.names.pools:
        return lambda frame: frame.workers(name)
    if name == "max_tokens":
        return lambda frame: frame.view.max_tokens
    if name in REQUEST_OBSERVATIONS:
        return lambda frame: frame.view.request(name)
    raise CompileError(f"nothing is called '{name}' here")


def _worker_at(pool: str, index: int) -> Evaluator:
    """`decode[0]`: missing where the pool has no such worker."""

    def evaluate(frame: Frame) -> Value:
        workers = frame.workers(pool)
        if index >= len(workers):
            raise Missing
        return workers[index]

    return evaluate


# --- comprehensions ----------------------------------------------------------------------------


def _comprehension(expr: Fold | Filter, scope: Scope) -> Evaluator:
    pool = compile_expression(expr.pool, scope)
    inner, slot = scope.with_variable(expr.variable)

    def elementwise(part: Expr) -> choices.Column:
        return choices.elementwise(compile_expression(part, inner), slot)

    def column(part: Expr) -> choices.Column:
        once = partial(compile_expression, scope=scope)
        return compile_column(part, expr.variable, elementwise, once)

    where = None if expr.where is None else column(expr.where)
    workers = choices.filtered(pool, where)
    if isinstance(expr, Filter):
        return workers
    if expr.op in ("argmin", "argmax"):
        parts = _summands(expr.value)
        written = tuple(unparse.expression(part) for part in parts)
        columns = tuple(column(part) for part in parts)
        terms = choices.Terms(unparse.expression(expr), written, columns)
        return choices.best_worker(workers, terms, largest=expr.op == "argmax")
    if expr.op == "two_choices":
        return choices.two_choices(expr.span.start, workers, column(expr.value))
    return choices.aggregate(expr.op, choices.elements_of(workers, column(expr.value)))


def _summands(expr: Expr) -> list[Expr]:
    """`a + b + c` as [a, b, c]."""
    if isinstance(expr, Binary) and expr.op == "+":
        return [*_summands(expr.left), expr.right]
    return [expr]


# --- calls -------------------------------------------------------------------------------------


def _call(expr: Call, scope: Scope) -> Evaluator:
    name = expr.name
    if name in _SPECIAL_CALLS:
        return _SPECIAL_CALLS[name](expr, scope)
    args = [compile_expression(arg, scope) for arg in expr.args]
    if name in arithmetic.FUNCTIONS:
        return arithmetic.apply(arithmetic.FUNCTIONS[name], args)
    if name in WORKER_OBSERVATIONS:
        worker = args[0]
        return lambda frame: frame.view.worker(name, worker(frame))
    if name in TIMES or name == "cached":
        return _method(name, args)
    raise CompileError(f"no observation is called '{name}'")


def _method(name: str, args: list[Evaluator]) -> Evaluator:
    """`cached(w)`, `prefill_time(n, w)`, ...: the view's method of this name."""
    if len(args) == 2:
        left, right = args
        return lambda frame: getattr(frame.view, name)(left(frame), right(frame))
    return lambda frame: getattr(frame.view, name)(*[arg(frame) for arg in args])


def _tokens(expr: Call, scope: Scope) -> Evaluator:
    begin, end = compile_range(expr.args[0], scope)
    return lambda frame: end(frame) - begin(frame)


def _header(expr: Call, scope: Scope) -> Evaluator:
    argument = expr.args[0]
    assert isinstance(argument, Text), "the checker allows only a literal name here"
    name = f"header:{argument.value.lower()}"
    return lambda frame: frame.view.request(name)


def _ttft(expr: Call, scope: Scope) -> Evaluator:
    argument = expr.args[0]
    assert isinstance(argument, Name), "the checker allows only a route's name here"
    route = argument.name
    return lambda frame: frame.forecast(frame, route)


def _next(expr: Call, scope: Scope) -> Evaluator:
    return choices.next_worker(expr.span.start, compile_expression(expr.args[0], scope))


def _random(expr: Call, scope: Scope) -> Evaluator:
    return choices.random_worker(expr.span.start, compile_expression(expr.args[0], scope))


def _sticky(expr: Call, scope: Scope) -> Evaluator:
    key, pool = expr.args
    return choices.sticky_worker(_sticky_key(key, scope), compile_expression(pool, scope))


def _sticky_key(key: Expr, scope: Scope) -> Callable[[Frame], int | None]:
    if not isinstance(key, PromptRange):
        text = compile_expression(key, scope)
        return lambda frame: choices.text_key(text(frame))
    begin, end = compile_range(key, scope)

    def of_tokens(frame: Frame) -> int | None:
        first, last = begin(frame), end(frame)
        return frame.view.prompt_key(first, last) if first < last else None

    return of_tokens


_SPECIAL_CALLS: Mapping[str, Callable[[Call, Scope], Evaluator]] = {
    "tokens": _tokens,
    "header": _header,
    "ttft": _ttft,
    "next": _next,
    "random": _random,
    "sticky": _sticky,
}


# --- ranges of the prompt ----------------------------------------------------------------------

_ROUNDING = 1e-6  # 0.9 * 4000 is 3600 tokens, whatever the floats say


def compile_bound(expr: Expr | None, scope: Scope) -> Bound:
    """A position in the prompt: a count of tokens, or a ratio of the prompt; None is its end."""
    if expr is None:
        return lambda frame: frame.view.num_tokens
    value = compile_expression(expr, scope)
    is_ratio = scope.names.is_ratio(expr)

    def evaluate(frame: Frame) -> int:
        num_tokens = frame.view.num_tokens
        position = value(frame) * num_tokens if is_ratio else value(frame)
        return int(min(num_tokens, max(0, position + _ROUNDING)))

    return evaluate


def compile_range(expr: Expr, scope: Scope) -> tuple[Bound, Bound]:
    """Begin and end of a range, the end not before the begin."""
    assert isinstance(expr, PromptRange), "the checker allows only a range of the prompt here"
    begin: Bound = _constant(0) if expr.begin is None else compile_bound(expr.begin, scope)
    end = compile_bound(expr.end, scope)
    if expr.begin is None:
        return begin, end
    return begin, lambda frame: max(begin(frame), end(frame))
