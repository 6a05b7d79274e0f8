"""Rules about settings and params: known ones, with values in their ranges."""

from collections.abc import Iterable

from mserve.dsl.diagnostics import Diagnostic, Edit, Label
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span


def unknown_setting(
    span: Span, name: str, owner: str, known: Iterable[str], synonym: str = ""
) -> Diagnostic:
    """A setting that does not exist.

    What it does: reports settings of pools, of `slo`, of `limits` and of variants such as
    `continuous(...)` that are not known.

    Why it is wrong: it would be ignored, and the pool would run otherwise than written.

    Example:

        pool decode { batch = continuous(token = 8192) }

    Use instead:

        pool decode { batch = continuous(tokens = 8192) }
    """
    known = list(known)
    meant = synonym if synonym in known else nearest(name, known)
    listed = ", ".join(f"`{each}`" for each in known)
    return Diagnostic(
        "unknown-setting",
        f"{owner} has no setting `{name}`",
        (Label(span, f"did you mean `{meant}`?" if meant else ""),),
        help=f"known settings: {listed}" if known else f"write {owner} alone",
        fix=(Edit(span, meant),) if meant else (),
    )


def bad_setting(
    span: Span, name: str, wanted: str, written: str = "", meant: str = "", help: str = ""
) -> Diagnostic:
    """A setting with a value it cannot have.

    What it does: reports values outside of a setting's range and words it does not know.

    Why it is wrong: the pool could not be started so.

    Example:

        pool decode { workers = 0  queue = fifo }

    Use instead:

        pool decode { workers = 2  queue = fcfs }
    """
    return Diagnostic(
        "bad-setting",
        f"`{name}` takes {wanted}",
        (Label(span, f"did you mean `{meant}`?" if meant else ""),),
        help,
        fix=(Edit(Span(span.start, span.start + len(written)), meant),) if meant else (),
    )


def param_out_of_range(span: Span, message: str, ends: Span | None) -> Diagnostic:
    """A param's value outside of its range, or a range without values.

    What it does: compares the default of a param, and values that tests give it, with its inclusive
    range.

    Why it is wrong: the value could never be set while serving.

    Example:

        param tail = 95% in 0%..90%

    Use instead:

        param tail = 10% in 0%..90%
    """
    labels = [Label(span)] if ends is None else [Label(span), Label(ends, "the range")]
    return Diagnostic("param-out-of-range", message, tuple(labels))
