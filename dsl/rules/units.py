"""Rules about types, units and what is known where an expression stands."""

from collections.abc import Mapping

from mserve.dsl.diagnostics import Diagnostic, Label
from mserve.dsl.syntax import Span


def wrong_type(span: Span, wanted: str, found: str, help: str = "") -> Diagnostic:
    """A value of another type is wanted.

    What it does: reports a worker where a pool is wanted, a number where a condition is wanted, a
    function called with too many arguments, and the like. Numbers of the wrong unit are
    `unit-mismatch`.

    Why it is wrong: there is no sensible way to convert one into the other.

    Example:

        pool decode
        route only { generate on decode }

    Use instead:

        pool decode
        route only { generate on argmin(load(w) for w in decode) }
    """
    return Diagnostic(
        "wrong-type", f"expected {wanted}, found {found}", (Label(span, found),), help
    )


def wrong_call(span: Span, message: str, label: str = "", help: str = "") -> Diagnostic:
    """A `wrong-type` of something that is called, or not called, as it should be."""
    return Diagnostic("wrong-type", message, (Label(span, label),), help)


_RELATIONS: Mapping[str, str] = {
    "+": "cannot add {left} and {right}",
    "-": "cannot subtract {right} from {left}",
    "if": "a conditional cannot give both {left} and {right}",
}


def unit_mismatch(
    left: tuple[Span, str],
    right: tuple[Span, str],
    relation: str,
    help: str = "",
) -> Diagnostic:
    """Numbers of different units are compared, added or mixed.

    What it does: reports `+`, `-`, comparisons, `min`, `max`, `clamp`, `if` and arguments where
    the units differ. `*` and `/` combine units. A bare number is a count or a ratio, whichever
    is wanted; a duration or a number of bytes needs its suffix.

    Why it is wrong: 256 tokens and 256 milliseconds are not the same, and which one is meant
    decides where requests run.

    Example:

        route short when load(d) < 256 { generate on d }

    Use instead:

        route short when load(d) < 256ms { generate on d }
    """
    template = _RELATIONS.get(relation, "cannot compare {left} with {right}")
    message = template.format(left=_as_count(left[1]), right=_as_count(right[1]))
    labels = (Label(right[0], _spell_out(right[1])), Label(left[0], _spell_out(left[1])))
    return Diagnostic("unit-mismatch", message, labels, help)


def wrong_unit(span: Span, wanted: str, found: str, help: str = "") -> Diagnostic:
    """A `unit-mismatch` with what an argument, bound, setting or given is to be."""
    message = f"expected {wanted}, found {_as_count(found)}"
    return Diagnostic("unit-mismatch", message, (Label(span, _spell_out(found)),), help)


def not_available_here(span: Span, what: str, why: str, help: str = "") -> Diagnostic:
    """Something is used where it has no value yet, or would not mean what it says.

    What it does: reports anything but constants in settings, ranges of params, `slo` and `limits`;
    anything about one request in `adapt`; workers by position outside of tests; and `next`,
    `random` and `two_choices` anywhere but as a whole `let` or right after `on`, `from` or `to`.

    Why it is wrong: settings are read before there is a request, `adapt` runs between requests,
    positions change as workers come and go, and a choice that picks anew each time is made once.

    Example:

        adapt every 5s { tail = 10% if tokens(prompt) > 1000 else 50% }

    Use instead:

        adapt every 5s { tail = mean(kv_used(w) for w in decode) }
    """
    return Diagnostic(
        "not-available-here", f"{what} is not available here", (Label(span, why),), help
    )


def _as_count(kind: str) -> str:
    return "a count" if kind == "a bare number" else kind


def _spell_out(kind: str) -> str:
    return "a bare number is a count here" if kind == "a bare number" else kind
