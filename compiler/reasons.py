"""Why a condition holds or not: the comparisons that decided it, with the values on either side.

Evaluates parts of a condition again, in the frame of a decision that is already taken, and only
those that the decision itself looked at. Knows how values are spelled, not how a view words them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.compiler.evaluate import compile_expression
from mserve.compiler.frame import MISSING, Frame, Missing, Value
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.scope import Scope
from mserve.compiler.spelling import spell
from mserve.dsl.syntax import Binary, Boolean, Expr, Fold, Name, Number, Route, Text, Unary
from mserve.dsl.traversal import route_expressions, walk

_COMPARISONS = frozenset(["<", "<=", ">", ">=", "==", "!="])
_DIGITS, _ALL_DIGITS = 4, 12  # those that count, and where two different values look the same


@dataclass(frozen=True, slots=True)
class Reason:
    """A condition as written, what it comes to (`4000 < 256`; nothing where that says no more) and
    whether it holds."""

    text: str
    values: str
    holds: bool

    def __str__(self) -> str:
        words = f"{self.text} {'holds' if self.holds else 'does not hold'}"
        return f"{words} ({self.values})" if self.values else words


class Reasons:
    """Explains the conditions of one decision."""

    def __init__(self, strategy: CompiledStrategy, frame: Frame) -> None:
        self._strategy = strategy
        self._frame = frame
        self._scope = Scope(strategy.names)

    def value(self, expr: Expr, scope: Scope | None = None) -> Value:
        """None where it is missing."""
        evaluate = compile_expression(expr, scope or self._scope)
        self._make_room()
        try:
            return evaluate(self._frame)
        except Missing:
            return None

    def of(self, condition: Expr) -> tuple[Reason, ...]:
        """The parts of a condition, none of them missing, without which its value would be another:
        of `a and b` the first that fails, or both."""
        return tuple(self._reason(part) for part in self._deciding(condition))

    def missing(self, route: Route) -> str:
        """The first binding of a route that is missing, or nothing if it is no binding."""
        names = self._strategy.names
        for name in _names_in(route):
            if names.has_let(name) and self._frame.lets[names.let_names.index(name)] is MISSING:
                return name
        return ""

    def _make_room(self) -> None:
        """What is compiled after a decision has slots that its frame has not."""
        slots = self._frame.slots
        slots.extend([None] * (self._strategy.names.num_slots - len(slots)))

    def _deciding(self, expr: Expr) -> Iterator[Expr]:
        if isinstance(expr, Unary) and expr.op == "not":
            yield from self._deciding(expr.operand)
        elif isinstance(expr, Binary) and expr.op in ("and", "or"):
            settles = expr.op == "or"  # the value of one side that makes the other irrelevant
            sides = (expr.left, expr.right)
            one = next((side for side in sides if bool(self.value(side)) is settles), None)
            for side in sides if one is None else (one,):
                yield from self._deciding(side)
        else:
            yield expr

    def _reason(self, expr: Expr) -> Reason:
        values = ""
        if isinstance(expr, Binary) and expr.op in _COMPARISONS:
            values = self._compared(expr, self._scope)
        elif isinstance(expr, Fold) and expr.op in ("any", "all"):
            values = self._decided_by_one(expr)
        text = self._strategy.checked.source.one_line(expr.span)
        return Reason(_bare(text), values, bool(self.value(expr)))

    def _decided_by_one(self, expr: Fold) -> str:
        """The first worker that settles an `all` or `any` of comparisons, if one does."""
        compared = expr.value
        if not (isinstance(compared, Binary) and compared.op in _COMPARISONS):
            return ""
        inner, slot = self._scope.with_variable(expr.variable)
        self._make_room()
        for worker in self.value(expr.pool) or ():
            self._frame.slots[slot] = worker
            is_asked = expr.where is None or self.value(expr.where, inner)
            if is_asked and self.value(compared, inner) is (expr.op == "any"):
                return f"{spell(worker)}: {self._compared(compared, inner, expr.variable)}"
        return ""

    def _compared(self, expr: Binary, scope: Scope, variable: str = "") -> str:
        """Nothing for two constants. A bare number takes the unit of the other side."""
        if all(isinstance(side, (Number, Boolean, Text)) for side in (expr.left, expr.right)):
            return ""
        names = self._strategy.names
        units = names.type_of(expr.left, variable), names.type_of(expr.right, variable)
        unit = units[1] if units[0].untyped else units[0]
        values = self.value(expr.left, scope), self.value(expr.right, scope)
        left, right = (spell(value, unit, _DIGITS) for value in values)
        if left == right and values[0] != values[1]:
            left, right = (spell(value, unit, _ALL_DIGITS) for value in values)
        return f"{left} {expr.op} {right}"


def _bare(text: str) -> str:
    """Without the parentheses around all of it."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            is_around = place == len(text) - 1 and character == ")" and text[0] == "("
            return text[1:-1] if is_around else text
    return text


def _names_in(route: Route) -> Iterator[str]:
    for expr in route_expressions(route):
        yield from (part.name for part in walk(expr) if isinstance(part, Name))
