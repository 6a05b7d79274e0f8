"""Rules about the ranges of a route: they are written in order, and each begins where one ends."""

from collections.abc import Sequence

from mserve.dsl.diagnostics import Diagnostic, Label, Severity
from mserve.dsl.syntax import Span


def gap_in_prompt(
    span: Span, begins: str, above: tuple[Span, str] | None, help: str = ""
) -> Diagnostic:
    """A range begins where nothing ended.

    What it does: reports a range that begins neither at 0 nor, by the same expression, where an
    earlier range of the route ends. `replicate` always begins at 0.

    Why it is wrong: to compute or hold tokens a worker needs the KV of all tokens before them, and
    for the tokens in between the route names no worker.

    Example:

        compute prompt[:50%] on p
        compute prompt[60%:] on d

    Use instead:

        compute prompt[:50%] on p
        compute rest on d
    """
    if above is None:
        message = f"nothing is said about the prompt before {begins}"
        return Diagnostic("gap-in-prompt", message, (Label(span, "begins here"),), help)
    labels = Label(span, "begins here"), Label(above[0], "the range above ends here")
    message = f"nothing is said about the prompt between {above[1]} and {begins}"
    return Diagnostic(
        "gap-in-prompt", message, labels, help="go on where the range above ends: write `rest`"
    )


def overlap_in_prompt(span: Span, begins: str, above: tuple[Span, str]) -> Diagnostic:
    """A range begins before the one above it ends.

    What it does: reports a range that begins at 0, or at the end of an earlier range that is not
    the one directly above.

    Why it is wrong: two workers would compute the same tokens.

    Example:

        compute prompt[:50%] on p
        compute prompt[:90%] on q

    Use instead:

        compute prompt[:50%] on p
        compute prompt[50%:90%] on q
    """
    labels = Label(span, f"begins at {begins}"), Label(above[0], "the range above ends here")
    return Diagnostic(
        "overlap-in-prompt",
        f"the prompt between {begins} and {above[1]} is placed twice",
        labels,
        help=_END_FIRST
        if above[1] == "the end"
        else "go on where the range above ends: write `rest`",
    )


_END_FIRST = "the range above takes all that follows: give it an end, as in `prompt[:50%]`"


def ranges_out_of_order(spans: Sequence[Span], in_order: Sequence[str]) -> Diagnostic:
    """Ranges that would join in another order.

    What it does: reports a route whose ranges neither overlap nor leave a gap, but do not stand in
    the order of the prompt.

    Why it is wrong: a route is read from top to bottom, and `rest` means what follows the range
    above.

    Example:

        compute prompt[50%:] on q
        compute prompt[:50%] on p

    Use instead:

        compute prompt[:50%] on p
        compute prompt[50%:] on q
    """
    labels = tuple(Label(span) for span in spans)
    return Diagnostic(
        "ranges-out-of-order",
        "these ranges join, but in another order",
        labels,
        help="write them in the order of the prompt: "
        + ", ".join(f"`{each}`" for each in in_order),
    )


def doubtful_bound(span: Span, message: str, help: str) -> Diagnostic:
    """A bound that is most likely not what was meant.

    What it does: warns of a bound that is below 0 or above 100% of the prompt whatever is observed,
    and of a bare number between 0 and 1, such as `0.9` or `1/3`. A bound is a count of tokens or a ratio of the prompt; a
    bare number alone is a count, and times a ratio it is a ratio.

    Why it is wrong: bounds are cut off at the prompt's ends, so the range would be empty, or the
    whole prompt.

    Example:

        compute prompt[:0.9] on p
        compute rest on d

    Use instead:

        compute prompt[:90%] on p
        compute rest on d
    """
    return Diagnostic("doubtful-bound", message, (Label(span),), help, severity=Severity.WARNING)
