"""What does not fit in a strategy's expressions: each place and rule once, with what to write.

Knows how a disagreement between types is reported; who found it (inference.py) decides what is one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mserve.dsl.diagnostics import Diagnostic, Label
from mserve.dsl.hints import fold_hint, form_hint, share_hint, type_hint, unit_beside, unit_hint
from mserve.dsl.rules.units import unit_mismatch, wrong_call, wrong_type, wrong_unit
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Call, Expr, Span
from mserve.dsl.types import COUNT, RATIO, UNKNOWN, Type, unify

Key = tuple[str, Span]


class Findings:
    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._found: dict[Key, Diagnostic] = {}

    @property
    def diagnostics(self) -> list[Diagnostic]:
        return list(self._found.values())

    @property
    def keys(self) -> set[Key]:
        return set(self._found)

    def report(self, diagnostic: Diagnostic) -> None:
        self._found.setdefault((diagnostic.rule, diagnostic.span), diagnostic)

    def label(self, keys: Iterable[Key], label: Label) -> None:
        """Adds a place to diagnostics that were reported before."""
        for key in keys:
            labels = (*self._found[key].labels, label)
            self._found[key] = replace(self._found[key], labels=labels)

    def demand(self, expr: Expr, found: Type, wanted: Type, unit: str = "") -> None:
        """Reports a value that is not of the wanted type; `unit` is the usual one in this place."""
        if unify(found, wanted) is not None:
            return
        if found.kind is wanted.kind:
            hint = unit_hint(expr, wanted, unit)
            self.report(wrong_unit(expr.span, str(wanted), str(found), hint))
        else:
            self.wrong_kind(expr, found, wanted)

    def wrong_kind(self, expr: Expr, found: Type, wanted: Type, hint: str = "") -> None:
        hint = hint or type_hint(expr, found, wanted, self._symbols)
        self.report(wrong_type(expr.span, str(wanted), str(found), hint))

    def demand_number(self, expr: Expr, found: Type) -> Type:
        """The type, or UNKNOWN after reporting what is no number."""
        if found.is_number or found == UNKNOWN:
            return found
        hint = type_hint(expr, found, RATIO, self._symbols)
        self.report(wrong_type(expr.span, "a number", str(found), hint))
        return UNKNOWN

    def demand_bound(self, expr: Expr, found: Type) -> None:
        """A bound of a range: a count of tokens or a ratio of the prompt."""
        if found != UNKNOWN and not found.untyped and found not in (COUNT, RATIO):
            wanted = "a count of tokens or a ratio of the prompt"
            self.report(wrong_unit(expr.span, wanted, str(found), "write `prompt[:50%]`"))

    def mismatch(self, left: tuple[Expr, Type], right: tuple[Expr, Type], relation: str) -> None:
        """Two numbers of different units."""
        hint = (
            share_hint(left[1], right[0])
            or unit_hint(left[0], right[1], unit_beside(right[0]))
            or unit_hint(right[0], left[1], unit_beside(left[0]))
        )
        sides = (left[0].span, str(left[1])), (right[0].span, str(right[1]))
        if left[1].untyped and not right[1].untyped and relation != "-":
            sides = sides[1], sides[0]  # point at the bare number
        self.report(unit_mismatch(*sides, relation, hint))

    # --- calls -------------------------------------------------------------------------------

    def unfolded(self, expr: Call, found: Sequence[Type]) -> None:
        """`argmin(load, decode)`: what looks at each worker of a pool, called like a function."""
        message = f"`{expr.name}` looks at each worker of a pool"
        self.report(wrong_call(expr.span, message, help=fold_hint(expr, found)))

    def fits(self, expr: Call, wanted: int, variadic: bool = False) -> bool:
        """Reports a call with another number of arguments."""
        given = len(expr.args)
        if given == wanted or (variadic and given > wanted):
            return True
        count = "no argument" if wanted == 0 else f"{wanted} argument{'s' * (wanted > 1)}"
        least = "at least " if variadic else ""
        message = f"`{expr.name}` takes {least}{count}, not {given}"
        hint = form_hint(expr.name, self._symbols)
        self.report(wrong_call(expr.span, message, help=hint))
        return False
