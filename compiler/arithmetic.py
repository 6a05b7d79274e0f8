"""Operators and arithmetic functions on closures. Total: every nan (`0/0`, `inf - inf`) is 0.

Knows no syntax: evaluate.py reads the tree and puts these together.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from mserve.compiler.frame import Evaluator, Frame, Value
from mserve.dsl.constants import divide


def clamp(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def floor(value: float) -> float:
    return value if math.isinf(value) else math.floor(value)


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "min": min,
    "max": max,
    "clamp": clamp,
    "abs": abs,
    "floor": floor,
}


def apply(function: Callable[..., Value], args: Sequence[Evaluator]) -> Evaluator:
    if len(args) == 2:
        left, right = args
        return lambda frame: function(left(frame), right(frame))
    return lambda frame: function(*[arg(frame) for arg in args])


def _add(left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(frame: Frame) -> Value:
        value = left(frame) + right(frame)
        return value if value == value else 0.0

    return evaluate


def _subtract(left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(frame: Frame) -> Value:
        value = left(frame) - right(frame)
        return value if value == value else 0.0

    return evaluate


def _multiply(left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(frame: Frame) -> Value:
        value = left(frame) * right(frame)
        return value if value == value else 0.0

    return evaluate


BINARY: Mapping[str, Callable[[Evaluator, Evaluator], Evaluator]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": lambda left, right: lambda frame: divide(left(frame), right(frame)),
    "and": lambda left, right: lambda frame: left(frame) and right(frame),
    "or": lambda left, right: lambda frame: left(frame) or right(frame),
    "<": lambda left, right: lambda frame: left(frame) < right(frame),
    "<=": lambda left, right: lambda frame: left(frame) <= right(frame),
    ">": lambda left, right: lambda frame: left(frame) > right(frame),
    ">=": lambda left, right: lambda frame: left(frame) >= right(frame),
    "==": lambda left, right: lambda frame: left(frame) == right(frame),
    "!=": lambda left, right: lambda frame: left(frame) != right(frame),
}

UNARY: Mapping[str, Callable[[Evaluator], Evaluator]] = {
    "-": lambda operand: lambda frame: -operand(frame),
    "not": lambda operand: lambda frame: not operand(frame),
}


def choose(condition: Evaluator, then: Evaluator, otherwise: Evaluator) -> Evaluator:
    """Only the branch that is taken is evaluated, and can be missing."""
    return lambda frame: then(frame) if condition(frame) else otherwise(frame)
