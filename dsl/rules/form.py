"""Rules about the form of a strategy: what cannot be read at all, or reads differently than meant."""

from collections.abc import Sequence
from itertools import pairwise

from mserve.dsl.diagnostics import Diagnostic, Edit, Label
from mserve.dsl.syntax import Span


def syntax(
    span: Span, message: str, label: str = "", help: str = "", fix: tuple[Edit, ...] = ()
) -> Diagnostic:
    """The text is not a strategy.

    What it does: reports where the text departs from the grammar. Reading goes on at the next step
    or declaration, so that several such places are reported in one run; a declaration that cannot
    be read takes no part in the other checks. Nesting deeper than 100 levels is refused, too.

    Why it is wrong: a strategy that cannot be read cannot be run.

    Example:

        let idle argmin(load(w) for w in decode)

    Use instead:

        let idle = argmin(load(w) for w in decode)
    """
    return Diagnostic("syntax", message, (Label(span, label),), help, fix=fix)


def chained_comparison(
    text: str, operands: Sequence[Span], operators: Sequence[Span]
) -> Diagnostic:
    """Comparisons do not chain.

    What it does: refuses `a < b < c`.

    Why it is wrong: some languages compare the truth value of `a < b` with `c`, others mean
    `a < b and b < c`. Which of the two decides where a request runs should be said.

    Example:

        route short when 0 < tokens(prompt) < 256 { generate on d }

    Use instead:

        route short when 0 < tokens(prompt) and tokens(prompt) < 256 { generate on d }
    """
    pairs = [Span(left.start, right.end) for left, right in pairwise(operands)]
    spelled = " and ".join(text[pair.start : pair.end] for pair in pairs)
    whole = Span(operands[0].start, operands[-1].end)
    labels = (Label(operators[1], "compares the result of a comparison"), Label(operators[0]))
    last = text[operands[-1].start : operands[-1].end]
    if last.lower() in ("true", "false"):
        spelled = spelled.rpartition(" and ")[0]
        spelled = spelled if last.lower() == "true" else f"not {spelled}"
    hint = f"compare in pairs: `{' '.join(spelled.split())}`"
    if last.lower() in ("true", "false"):
        hint = f"a condition is no number: write `{' '.join(spelled.split())}`"
    return Diagnostic(
        "chained-comparison",
        "comparisons do not chain",
        labels,
        help=hint,
        fix=(Edit(whole, spelled),),
    )
