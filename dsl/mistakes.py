"""Words for mistakes of form, in the author's terms.

Habits of other languages are known by their tokens, other frequent mistakes by the state in which
the parser stops (broken_examples). Else the message says what would have been accepted. Knows
the grammar's words, and nothing of its rules' meaning.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

from mserve.dsl import habits
from mserve.dsl.broken_examples import MISTAKES
from mserve.dsl.broken_examples.expressions import FILTER, MISSING_ELSE
from mserve.dsl.broken_examples.filling import filled
from mserve.dsl.broken_examples.mistake import Mistake
from mserve.dsl.diagnostics import Diagnostic, Edit, Label
from mserve.dsl.failure import CLOSING, Failure
from mserve.dsl.foreign import foreign_habit
from mserve.dsl.lalr import END, Automaton, Scanner, Stopped, Token, span_of, spelling
from mserve.dsl.rules.form import syntax
from mserve.dsl.source import Source
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span
from mserve.dsl.token_kinds import EXPRESSION_ENDS, LITERALS, STATEMENTS, STEPS

_CLASSES = {
    "NAME": "a name",
    "TEXT": "a text in double quotes",
    "NUMBER": "a number",
    "COMPARISON": "a comparison",
}
_OPERATORS = frozenset(["PLUS", "MINUS", "STAR", "SLASH", "COMPARISON", "AND", "OR", "IF"])
_EXPRESSION_STARTS = frozenset(["NAME", "NUMBER", "LPAR", "RATIO"])
_OPERANDS = LITERALS | {"NAME", "PROMPT", "NOT"}
_EXPRESSION_ONLY = LITERALS | {"NAME", "MINUS", "NOT", "LPAR", "LSQB", "PROMPT"}
# Keywords that are no name the author may have wanted to give.
_GRAMMATICAL = STEPS | frozenset(
    ["IF", "ELSE", "FOR", "IN", "WHERE", "ON", "FROM", "TO", "WHEN", "AND", "OR"]
)
_SMALLEST = 'strategy first "in turn"  pool workers  route all { generate on next(workers) }'
_DECLARATIONS = "a declaration begins with `param`, `pool`, `let`, `def`, `route`, `adapt`, `slo`, `limits` or `test`"


# What is said where a line of a block should begin, by a keyword that is accepted there.
_WRONG_LINES = {
    "COMPUTE": (
        "no step begins with",
        "a step is `compute`, `reuse`, `generate` or `replicate`",
    ),
    "EXPECT": ("no line of a test begins with", "they are `cluster`, `given` and `expect`"),
}


@dataclass(frozen=True)
class Mended:
    """A misspelled keyword: the token that was meant, and what to say about it."""

    token: Token
    problem: Diagnostic


def headless(source: Source, first: Token | None) -> Diagnostic:
    if first is None:
        span = Span(0, min(1, len(source.text)))
        hint = f"the smallest strategy: `{_SMALLEST}`"
        return syntax(span, "there is no strategy in this file", help=hint)
    rest = source.text[first.start_pos or 0 :]
    for spelled, habit in habits.COMMENTS.items():
        if rest.startswith(spelled):
            return syntax(span_of(first), habit.message, help=habit.help or "write `#`")
    message = "a file begins with the name of its strategy"
    return syntax(span_of(first), message, help='write `strategy NAME "what it does"` first')


def second_strategy(token: Token, first: Token) -> Diagnostic:
    labels = (
        Label(span_of(token), "a second strategy"),
        Label(span_of(first), "the file's strategy"),
    )
    hint = "write it into a file of its own; alternatives of one strategy are its routes"
    return Diagnostic("syntax", "a file holds one strategy", labels, hint)


def misspelled_keyword(token: Token, accepted: Iterable[str]) -> Mended | None:
    """The accepted keyword that a name resembles, if there is one."""
    if token.type != "NAME":
        return None
    keywords = {word: kind for kind in sorted(accepted) if (word := _keyword(kind))}
    meant = nearest(token, keywords)
    if meant is None:
        return None
    span = span_of(token)
    problem = Diagnostic(
        "syntax",
        f"unknown keyword `{token}`",
        (Label(span, f"did you mean `{meant}`?"),),
        fix=(Edit(span, meant),),
    )
    return Mended(token.update(type=keywords[meant]), problem)


def describe(failure: Failure) -> Diagnostic:
    """What is wrong where the parser stopped."""
    return (
        _bracket(failure)
        or _misspelled_before(failure)
        or foreign_habit(failure)
        or _like_an_example(failure)
        or _keyword_as_name(failure)
        or _by_what_is_expected(failure)
    )


# Where a name may stand, too, a keyword's misspelling is noticed one token late.
_EITHER_NAME_OR = {"EXPECT": ("ROUTE", "SENDS"), "GENERATE": ("ON",)}


def _misspelled_before(failure: Failure) -> Diagnostic | None:
    """`expect rout all`, `generate om d`."""
    if failure.index < 2 or failure.found is None:
        return None
    keyword, written = failure.tokens[failure.index - 2 : failure.index]
    mended = misspelled_keyword(written, _EITHER_NAME_OR.get(keyword.type, ()))
    return None if mended is None else mended.problem


def _bracket(failure: Failure) -> Diagnostic | None:
    """A bracket that is never closed, or that closes nothing."""
    found, opener = failure.found, failure.opener
    if opener is None:
        if found is None or str(found) not in CLOSING.values():
            return None
        return syntax(span_of(found), f"this `{found}` closes nothing", help="leave it out")
    if found is not None and (str(opener) == "{" or not _begins_block(found)):
        return None
    closing = CLOSING[str(opener)]
    message = f"this `{opener}` is never closed by a `{closing}`"
    return syntax(span_of(opener), message, help=f"add the `{closing}`")


def _begins_block(token: Token) -> bool:
    """What cannot stand in parentheses."""
    return str(token) in ("{", "}") or token.type in STEPS


def _keyword_as_name(failure: Failure) -> Diagnostic | None:
    found, accepts = failure.found, failure.stop.accepts
    if found is None or "NAME" not in accepts or not _keyword(found.type):
        return None
    before = failure.tokens[failure.index - 1]
    if not accepts >= _EXPRESSION_STARTS or found.type not in _GRAMMATICAL:
        if found.line != before.end_line:
            return _missing_after(before, accepts)
        hint = f"choose another name, such as `my_{found}`"
        return syntax(span_of(found), f"`{found}` is a keyword and cannot be a name", help=hint)
    if found.type == "IF":
        message, hint = "a conditional begins with a value", "write `x if c else y`"
        return syntax(span_of(found), message, help=hint)
    message = f"something is missing between `{before}` and `{found}`"
    return syntax(span_of(found), message, _wanted(accepts))


def _missing_after(before: Token, accepts: Set[str]) -> Diagnostic:
    return syntax(span_of(before), f"something is missing after `{before}`", _wanted(accepts))


def _like_an_example(failure: Failure) -> Diagnostic | None:
    known = _labelled(failure)
    if known is None:
        return None
    span = _last(failure)
    if failure.found is not None and failure.found.type == "RBRACE":
        span = span_of(failure.tokens[failure.index - 1])
    if known is FILTER:
        span = _last_if(failure) or span
    elif known.of_step:
        span = _step(failure)
    fix = () if known.replacement is None else (Edit(span, known.replacement),)
    hint = filled(known.help, failure) or (
        f"write `{known.replacement.strip()}`" if known.replacement else ""
    )
    return syntax(span, filled(known.message, failure), help=hint, fix=fix)


def _by_what_is_expected(failure: Failure) -> Diagnostic:
    found, accepts = failure.found, failure.stop.accepts
    before = failure.tokens[failure.index - 1]
    if found is None:
        return _missing_after(before, accepts)
    if failure.complete and found.line != before.end_line:
        return syntax(span_of(found), f"no declaration begins with `{found}`", help=_DECLARATIONS)
    for kind, (message, hint) in _WRONG_LINES.items():
        if kind in accepts and found.type == "NAME":
            return syntax(span_of(found), f"{message} `{found}`", help=hint)
    message = f"something is missing between `{before}` and `{found}`"
    if _are_operands(before, found):
        return syntax(span_of(found), message, "expected an operator")
    if accepts >= _EXPRESSION_STARTS:
        return syntax(span_of(found), message, _wanted(accepts))
    return syntax(span_of(found), f"unexpected `{found}`", _wanted(accepts))


def _are_operands(left: Token, right: Token) -> bool:
    """`50% tokens(prompt)`: two values side by side."""
    same_line = left.end_line == right.line
    return same_line and left.type in EXPRESSION_ENDS and right.type in _OPERANDS


def _wanted(accepts: Set[str]) -> str:
    return f"expected {_expected(accepts)}"


def _last(failure: Failure) -> Span:
    """The token that stopped the parser; where the text ends too early, the one before."""
    return span_of(failure.found if failure.found is not None else failure.tokens[-1])


def _step(failure: Failure) -> Span:
    """From the keyword of the step, or of the test's line, to the token before the one that stopped the parser."""
    before = failure.tokens[: failure.index]
    begin = next(token for token in reversed(before) if token.type in STATEMENTS)
    return Span(span_of(begin).start, span_of(before[-1]).end)


def _last_if(failure: Failure) -> Span | None:
    """The `if` whose missing `else` stopped the parser."""
    before = reversed(failure.tokens[: failure.index])
    return next((span_of(token) for token in before if token.type == "IF"), None)


def _expected(accepts: Set[str]) -> str:
    kinds = set(accepts)
    names = []
    if kinds >= _EXPRESSION_STARTS:
        names.append("an expression")
        kinds -= _EXPRESSION_ONLY
    if "PLUS" in kinds:
        names.append("an operator")
        kinds -= _OPERATORS | {"LPAR", "LSQB", END}
    elif END in kinds:
        return "another declaration"
    names += sorted(_spelled(kind) for kind in kinds)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


def _spelled(kind: str) -> str:
    fixed = spelling(kind)
    return f"`{fixed}`" if fixed else _CLASSES.get(kind, f"a {kind.lower()}")


def _keyword(kind: str) -> str | None:
    """The spelling of a keyword; None for other kinds of tokens."""
    fixed = spelling(kind)
    return fixed if fixed and fixed.isalpha() else None


def _labelled(failure: Failure) -> Mistake | None:
    """The mistake of an example that stops alike: best one of the same kind of declaration."""
    where = failure.stop.position, failure.stop.kind
    labels = _labels()
    known = labels.get((*where, failure.tokens[0].type)) or labels.get((*where, ""))
    if known is FILTER and not _is_in_comprehension(failure):
        return MISSING_ELSE
    return known


def _is_in_comprehension(failure: Failure) -> bool:
    opener = failure.opener
    inside = reversed(failure.tokens[: failure.index])
    return any(
        token.type == "FOR" for token in takewhile(lambda token: token is not opener, inside)
    )


@cache
def _labels() -> dict[tuple[object, str, str], Mistake]:
    """(parser state, kind of token, keyword of the declaration or "") -> the mistake."""
    labels: dict[tuple[object, str, str], Mistake] = {}
    for mistake in MISTAKES:
        for example in mistake.examples:
            stop, keyword = stop_of(example)
            labels.setdefault((stop.position, stop.kind, keyword), mistake)
            labels.setdefault((stop.position, stop.kind, ""), mistake)
    return labels


def stop_of(example: str) -> tuple[Stopped, str]:
    """Where the parser stops in a broken declaration, and the declaration's keyword."""
    tokens: list[Token] = []
    Scanner(example).read_into(tokens)
    automaton = Automaton("strategy" if tokens[0].type == "STRATEGY" else "declaration")
    try:
        automaton.feed(tokens)
        automaton.finish(tokens[-1])
    except Stopped as stop:
        return stop, tokens[0].type
    raise AssertionError(f"the example of a mistake has none: {example}")
