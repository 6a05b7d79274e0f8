"""Which expressions are ratios: a bound of a range is a count of tokens or a ratio of the prompt.

Infers the types of checked expressions by the language's rules (dsl/types.py); refuses nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mserve.dsl.builtins import BARE, CALLS, FOLDS
from mserve.dsl.syntax import (
    Binary,
    Call,
    Conditional,
    Expr,
    Fold,
    Name,
    Number,
    Strategy,
    Unary,
    Unit,
)
from mserve.dsl.types import (
    BYTES,
    DURATION,
    RATIO,
    UNKNOWN,
    UNTYPED,
    Type,
    divide,
    multiply,
    unify,
)

_LITERALS: Mapping[Unit, Type] = {
    Unit.NONE: UNTYPED,
    Unit.RATIO: RATIO,
    Unit.DURATION: DURATION,
    Unit.BYTES: BYTES,
}


@dataclass(frozen=True, slots=True)
class Units:
    """Types of the numbers of one strategy, definitions expanded; anything else is UNKNOWN."""

    names: Mapping[str, Expr]  # lets and params

    @classmethod
    def of(cls, strategy: Strategy) -> "Units":
        lets = {let.name: let.value for let in strategy.lets}
        return cls({**lets, **{param.name: param.default for param in strategy.params}})

    def is_ratio(self, expr: Expr) -> bool:
        return self.type_of(expr).is_ratio

    def type_of(self, expr: Expr) -> Type:
        match expr:
            case Number():
                return _LITERALS[expr.unit]
            case Name():
                value = self.names.get(expr.name)
                return self.type_of(value) if value else _bare(expr.name)
            case Unary():
                return self.type_of(expr.operand)
            case Conditional():
                return self._common((expr.then, expr.otherwise))
            case Binary():
                return self._binary(expr)
            case Call():
                return CALLS[expr.name].result or self._common(expr.args)
            case Fold():
                return FOLDS[expr.op].result or self.type_of(expr.value)
        return UNKNOWN

    def _binary(self, expr: Binary) -> Type:
        combine = _PRODUCTS.get(expr.op)
        if combine is not None:
            return combine(self.type_of(expr.left), self.type_of(expr.right))
        return self._common((expr.left, expr.right)) if expr.op in "+-" else UNKNOWN

    def _common(self, exprs: Iterable[Expr]) -> Type:
        common = UNTYPED
        for expr in exprs:
            common = unify(common, self.type_of(expr)) or UNKNOWN
        return common


_PRODUCTS: Mapping[str, Callable[[Type, Type], Type]] = {"*": multiply, "/": divide}


def _bare(name: str) -> Type:
    builtin = BARE.get(name)
    return (builtin.result if builtin else None) or UNKNOWN
