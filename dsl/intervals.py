"""Evaluation over intervals: which values an expression can have, whatever is observed.

Literals have one value, params their range, observations any value of their kind. Conservative:
parts that depend on each other are taken for independent, so the true values lie inside.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mserve.dsl import builtins, syntax
from mserve.dsl.constants import arithmetic, value_of
from mserve.dsl.dependencies import Order
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Truth:
    """Which truth values are possible."""

    can_hold: bool
    can_fail: bool


Value = Interval | Truth | None  # None: anything (a worker, a text, an unknown)

NO_VARIABLES: Mapping[str, Value] = {}
ANY_NUMBER = Interval(-math.inf, math.inf)
NOT_NEGATIVE = Interval(0, math.inf)
SHARE = Interval(0, 1)
EITHER = Truth(True, True)

_FOLD_TRUTHS = frozenset(["any", "all"])


class Intervals:
    """The values of one strategy's expressions; they must have passed all checks."""

    def __init__(self, symbols: Symbols, order: Order) -> None:
        self.symbols = symbols
        self.lets: dict[str, Value] = {}
        self.calls: dict[tuple[str, tuple[Value, ...]], Value] = {}
        for reference in order.order:
            declaration = None if reference.route else symbols.names[reference.name]
            if isinstance(declaration, syntax.Let):
                self.lets[declaration.name] = self.value(declaration.value)

    def value(self, expr: Expr, variables: Mapping[str, Value] = NO_VARIABLES) -> Value:
        match expr:
            case syntax.Number():
                return Interval(expr.value, expr.value)
            case syntax.Boolean():
                return Truth(expr.value, not expr.value)
            case syntax.Name():
                return self._name(expr, variables)
            case syntax.Unary():
                return _negated(self.value(expr.operand, variables))
            case syntax.Binary():
                left, right = self.value(expr.left, variables), self.value(expr.right, variables)
                return _combined(expr.op, left, right)
            case syntax.Conditional():
                return self._conditional(expr, variables)
            case syntax.Call():
                return self._call(expr, variables)
            case syntax.Fold():
                return self._fold(expr, variables)
            case _:
                return None

    def _name(self, expr: syntax.Name, variables: Mapping[str, Value]) -> Value:
        if expr.name in variables:
            return variables[expr.name]
        declaration = self.symbols.names.get(expr.name)
        if isinstance(declaration, syntax.Let):
            return self.lets.get(expr.name)
        if isinstance(declaration, syntax.Param):
            low, high = value_of(declaration.low), value_of(declaration.high)
            return None if low is None or high is None or low > high else Interval(low, high)
        return _observed(expr.name)

    def _call(self, expr: syntax.Call, variables: Mapping[str, Value]) -> Value:
        arguments = tuple(self.value(arg, variables) for arg in expr.args)
        definition = self.symbols.names.get(expr.name)
        if isinstance(definition, syntax.Def):
            key = expr.name, arguments
            if key not in self.calls:
                named = dict(zip(definition.parameters, arguments, strict=False))
                self.calls[key] = self.value(definition.value, named)
            return self.calls[key]
        numbers = [argument for argument in arguments if isinstance(argument, Interval)]
        if expr.name in _ARITHMETIC and numbers and len(numbers) == len(arguments):
            return _ARITHMETIC[expr.name](numbers)
        return _observed(expr.name)

    def _fold(self, expr: syntax.Fold, variables: Mapping[str, Value]) -> Value:
        value = self.value(expr.value, {**variables, expr.variable: None})
        if expr.op == "count":
            return NOT_NEGATIVE
        if expr.op in _FOLD_TRUTHS:
            return EITHER
        if expr.op == "sum" and isinstance(value, Interval):
            return NOT_NEGATIVE if value.low >= 0 else ANY_NUMBER
        return value if expr.op in ("min", "max", "mean") else None

    def _conditional(self, expr: syntax.Conditional, variables: Mapping[str, Value]) -> Value:
        return _either(self.value(expr.then, variables), self.value(expr.otherwise, variables))


def _observed(name: str) -> Value:
    if name in builtins.SHARES:
        return SHARE
    if name == "priority":
        return ANY_NUMBER
    return NOT_NEGATIVE if name in _NUMERIC else None


def _negated(value: Value) -> Value:
    if isinstance(value, Interval):
        return Interval(-value.high, -value.low)
    return Truth(value.can_fail, value.can_hold) if isinstance(value, Truth) else None


def _combined(op: str, left: Value, right: Value) -> Value:
    if op in ("and", "or"):
        return _logic(op, left, right)
    if isinstance(left, Interval) and isinstance(right, Interval):
        return _arithmetic(op, left, right) if op in "+-*/" else _compared(op, left, right)
    return ANY_NUMBER if op in "+-*/" else EITHER


def _logic(op: str, left: Value, right: Value) -> Truth:
    a = left if isinstance(left, Truth) else EITHER
    b = right if isinstance(right, Truth) else EITHER
    if op == "and":
        return Truth(a.can_hold and b.can_hold, a.can_fail or b.can_fail)
    return Truth(a.can_hold or b.can_hold, a.can_fail and b.can_fail)


def _arithmetic(op: str, left: Interval, right: Interval) -> Interval:
    """The hull of the corners; where infinities or a zero divisor take part, anything."""
    corners = (left.low, left.high, right.low, right.high)
    if op == "/" and right.low <= 0 <= right.high:
        return ANY_NUMBER
    if op == "+" and all(corner > -math.inf for corner in corners):
        return Interval(left.low + right.low, left.high + right.high)
    if op == "*" and left.low >= 0 and right.low >= 0:
        return Interval(_product(left.low, right.low), _product(left.high, right.high))
    if not all(map(math.isfinite, corners)):
        return ANY_NUMBER
    found = [arithmetic(op, a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    numbers = [number for number in found if number is not None]
    return Interval(min(numbers), max(numbers))


def _product(left: float, right: float) -> float:
    return 0.0 if 0 in (left, right) else left * right


def _compared(op: str, left: Interval, right: Interval) -> Truth:
    match op:
        case "<":
            return Truth(left.low < right.high, left.high >= right.low)
        case "<=":
            return Truth(left.low <= right.high, left.high > right.low)
        case ">" | ">=":
            return _compared("<" if op == ">" else "<=", right, left)
    disjoint = left.high < right.low or right.high < left.low
    same = left == right and left.low == left.high
    equal = Truth(not disjoint, not same)
    return equal if op == "==" else Truth(equal.can_fail, equal.can_hold)


def _either(left: Value, right: Value) -> Value:
    if isinstance(left, Interval) and isinstance(right, Interval):
        return Interval(min(left.low, right.low), max(left.high, right.high))
    if isinstance(left, Truth) and isinstance(right, Truth):
        return Truth(left.can_hold or right.can_hold, left.can_fail or right.can_fail)
    return None


def _clamped(values: Sequence[Interval]) -> Interval:
    """`clamp(x, low, high)` is `max(low, min(x, high))`: of ends that are swapped the low one counts."""
    value, low, high = values
    return _largest([low, _smallest([value, high])])


def _smallest(values: Sequence[Interval]) -> Interval:
    return Interval(min(each.low for each in values), min(each.high for each in values))


def _largest(values: Sequence[Interval]) -> Interval:
    return Interval(max(each.low for each in values), max(each.high for each in values))


def _absolute(values: Sequence[Interval]) -> Interval:
    value = values[0]
    low = 0.0 if value.low <= 0 <= value.high else min(abs(value.low), abs(value.high))
    return Interval(low, max(abs(value.low), abs(value.high)))


def _floored(values: Sequence[Interval]) -> Interval:
    low, high = values[0].low, values[0].high
    return Interval(
        math.floor(low) if math.isfinite(low) else low,
        math.floor(high) if math.isfinite(high) else high,
    )


_ARITHMETIC: Mapping[str, Callable[[Sequence[Interval]], Interval]] = {
    "min": _smallest,
    "max": _largest,
    "clamp": _clamped,
    "abs": _absolute,
    "floor": _floored,
}
_NUMERIC = frozenset(
    builtin.name
    for builtin in (*builtins.BARE.values(), *builtins.CALLS.values())
    if builtin.result is not None and builtin.result.is_number
)
