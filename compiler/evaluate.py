"""Expressions as closures: the tree is read once, at compile time; a decision only calls them.

A closure takes the decision's Frame and raises Missing where its value is missing. The checker has
seen to types and names; what operators and choices do is arithmetic.py's and choices.py's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from mserve.compiler import arithmetic, choices
from mserve.compiler.columns import compile_column
from mserve.compiler.frame import Evaluator, Frame, Missing, Value, memoise
from mserve.compiler.observe import REQUEST_OBSERVATIONS, TIMES, WORKER_OBSERVATIONS
from mserve.dsl.dependencies import find_order
from mserve.dsl.inference import Inference
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import (
    Binary,
    Boolean,
    Call,
    Conditional,
    Expr,
    Filter,
    Fold,
    Let,
    Name,
    Number,
    PromptRange,
    Strategy,
    Text,
    Unary,
    WorkerAt,
)
from mserve.dsl.traversal import parts

MAX_DEPTH = 300
"""Of bindings built on bindings: what evaluation can nest without running out of stack."""

Bound = Callable[[Frame], int]


class CompileError(Exception):
    """A strategy that passed the checks and still cannot be compiled; says which part of it."""


class Names:
    """The strategy's lets, params and pools. A let is compiled once, after those that it needs.

    Raises CompileError for lets that need themselves or nest too deep.
    """

    def __init__(self, strategy: Strategy) -> None:
        symbols = Symbols.of(strategy)
        self.params = frozenset(param.name for param in strategy.params)
        self.pools = frozenset(pool.name for pool in strategy.pools)
        self.let_names = tuple(let.name for let in strategy.lets)
        self.num_slots = 0
        self._inference = Inference(symbols)
        self._lets = {let.name: let for let in strategy.lets}
        self._readers: dict[str, Evaluator] = {}
        self._depths: dict[str, int] = {}
        order = find_order(symbols)
        for cycle in order.cycles:
            raise CompileError(f"'{cycle[0][0].name}' is defined by itself")
        for reference in order.order:
            if reference.name in self._lets and not reference.route:
                self._compile_let(self._lets[reference.name])

    def _compile_let(self, let: Let) -> None:
        self._depths[let.name] = self._depth(let.value)
        if self._depths[let.name] > MAX_DEPTH:
            raise CompileError(
                f"'{let.name}' and the bindings that it builds on nest more than {MAX_DEPTH} deep"
            )
        self._inference.let(let)
        value = compile_expression(let.value, Scope(self))
        self._readers[let.name] = memoise(self.let_names.index(let.name), value)

    def _depth(self, expr: Expr) -> int:
        """Calls inside each other that a value takes, bindings not evaluated yet included."""
        if isinstance(expr, Name):
            return 1 + self._depths.get(expr.name, 0)
        return 1 + max((self._depth(part) for part in parts(expr)), default=0)

    def has_let(self, name: str) -> bool:
        return name in self._lets

    def let(self, name: str) -> Evaluator:
        """Reads the let of this name."""
        return self._readers[name]

    def is_ratio(self, expr: Expr) -> bool:
        return self._inference.type_of(expr).is_ratio

    def new_slot(self) -> int:
        self.num_slots += 1
        return self.num_slots - 1


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean where an expression stands: the strategy's, and comprehension variables."""

    names: Names
    variables: Mapping[str, int] = field(default_factory=dict)

    def with_variable(self, name: str) -> tuple["Scope", int]:
        slot = self.names.new_slot()
        return replace(self, variables={**self.variables, name: slot}), slot


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
    return _fold(expr, workers, column(expr.value))


def _fold(expr: Fold, workers: Evaluator, column: choices.Column) -> Evaluator:
    if expr.op == "two_choices":
        return choices.two_choices(expr.span.start, workers, column)
    elements = choices.elements_of(workers, column)
    if expr.op in ("argmin", "argmax"):
        return choices.best_worker(min if expr.op == "argmin" else max, elements)
    return choices.aggregate(expr.op, elements)


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
