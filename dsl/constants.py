"""The values of constant expressions: literals with `+ - * /` and a sign, in base units.

Total, as evaluation is: `x/0` is infinite, `0/0` and `inf - inf` are 0. Knows no types.
"""

import math

from mserve.dsl import syntax
from mserve.dsl.syntax import Expr


def value_of(expr: Expr) -> float | None:
    """The number a constant expression stands for; None for anything else."""
    match expr:
        case syntax.Number():
            return expr.value
        case syntax.Unary(op="-"):
            operand = value_of(expr.operand)
            return None if operand is None else -operand
        case syntax.Binary():
            left, right = value_of(expr.left), value_of(expr.right)
            return None if left is None or right is None else arithmetic(expr.op, left, right)
        case _:
            return None


def divide(left: float, right: float) -> float:
    """`x/0` is infinite with the sign of x, `0/0` is 0."""
    if right == 0:
        return math.copysign(math.inf, left) if left else 0.0
    value = left / right
    return value if value == value else 0.0


def arithmetic(op: str, left: float, right: float) -> float | None:
    """`left op right`, or None where `op` is no arithmetic."""
    match op:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right
        case "/":
            return divide(left, right)
        case _:
            return None
    return 0.0 if math.isnan(result) else result
