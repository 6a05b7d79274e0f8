"""Words for mistakes of form, in the author's terms.

A table of broken declarations names the frequent mistakes: a text is labelled like the example that
stops the parser in the same state at the same kind of token. Else the message says what would have
been accepted. Knows the grammar's words, and nothing of its rules' meaning.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cache

from mserve.dsl.diagnostics import Diagnostic, Edit, Label
from mserve.dsl.lalr import END, Automaton, Scanner, Stopped, Token, span_of, spelling
from mserve.dsl.rules.form import syntax
from mserve.dsl.source import Source
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span

_FILTER = "a filter is written `where`"

# message, help, declarations that show the mistake
_EXAMPLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        _FILTER,
        "`if` belongs to `x if c else y`; write `for w in POOL where COND`",
        (
            "let a = argmin(load(w) for w in p if load(w) > 1s)",
            "let a = [w for w in p if load(w) > 1s]",
        ),
    ),
    (
        "`=` gives a name to a value; it does not compare",
        "compare with `==`",
        ("route a when b = c { generate on d }", "let a = b = c", "let a = 1 if b = c else 2"),
    ),
    (
        "a step says where: `generate on WORKER`",
        "",
        (
            "route a { generate d }",
            "route a { generate 5 }",
            "route a { generate d compute rest on d }",
            "route a { generate d reuse rest from d }",
            "route a { generate d replicate prompt to d }",
            "route a { generate d generate on d }",
        ),
    ),
    (
        "`compute` places a range: `compute prompt[:50%] on WORKER`",
        "",
        ("route a { compute on d }", "route a { compute 5 on d }", "route a { compute d on d }"),
    ),
    (
        "`compute` runs on a worker: `compute RANGE on WORKER`",
        "",
        ("route a { compute prompt from d }", "route a { compute prompt to d }"),
    ),
    (
        "`reuse` takes from a worker: `reuse RANGE from WORKER`",
        "",
        ("route a { reuse prompt on d }", "route a { reuse prompt to d }"),
    ),
    (
        "`replicate` copies to a worker: `replicate RANGE to WORKER`",
        "",
        ("route a { replicate prompt on d }", "route a { replicate prompt from d }"),
    ),
    (
        "a part of the prompt has two bounds: `prompt[a:b]`, `prompt[:a]` or `prompt[a:]`",
        "",
        ("route a { compute prompt[5] on d }", "route a { compute prompt[] on d }"),
    ),
    (
        "the `else` of this conditional is missing",
        "write `x if c else y`",
        ("let a = 1 if b", "let a = f(1 if b)", "route a when 1 if b { generate on d }"),
    ),
    (
        "the name of this route is missing",
        "write `route NAME when COND { ... }`",
        ("route when b { generate on d }", "route { generate on d }"),
    ),
    (
        "a param says the range it may be set in",
        "write `param NAME = CONST in LO..HI`",
        ("param a = 5", "param a = 5 { }"),
    ),
    (
        "the range of a param has two ends: `LO..HI`",
        "",
        ("param a = 5 in 5", "param a = 5 in (1, 2)"),
    ),
    (
        "`adapt` says how often: `adapt every 5s { ... }`",
        "",
        ("adapt { a = 5 }", "adapt a = 5", "adapt 5s { a = 5 }"),
    ),
    (
        "a strategy says in a text what it does",
        'write `strategy NAME "what it does"`',
        ("strategy a", "strategy a 5"),
    ),
    (
        "a test has a title",
        'write `test "what is shown" { ... }`',
        ("test { expect route a }", "test a { expect route a }"),
    ),
    (
        "a given fixes an observation or a binding: `given tokens(prompt) = 4000`",
        "",
        ('test "a" { given 5 = 3 }', 'test "a" { given a > 3 }', 'test "a" { given a == 3 }'),
    ),
)

_CLASSES = {
    "NAME": "a name",
    "TEXT": "a text in double quotes",
    "NUMBER": "a number",
    "COMPARISON": "a comparison",
}
_OPERATORS = frozenset(["PLUS", "MINUS", "STAR", "SLASH", "COMPARISON", "AND", "OR", "IF"])
_EXPRESSION_STARTS = frozenset(["NAME", "NUMBER", "LPAR", "RATIO"])
_LITERALS = frozenset(["TEXT", "NUMBER", "RATIO", "DURATION", "BYTES", "TRUE", "FALSE"])
_EXPRESSION_ONLY = _LITERALS | {"NAME", "MINUS", "NOT", "LPAR", "LSQB", "PROMPT"}
_CLOSING = {"{": "}", "(": ")", "[": "]"}


@dataclass(frozen=True)
class Failure:
    """The parser stopped before `tokens[index]`, or, after the last, because it wants more."""

    tokens: list[Token]
    index: int
    stop: Stopped

    @property
    def found(self) -> Token | None:
        return self.tokens[self.index] if self.index < len(self.tokens) else None

    @property
    def complete(self) -> bool:
        """The declaration could have ended here."""
        return END in self.stop.accepts


@dataclass(frozen=True)
class Mended:
    """A misspelled keyword: the token that was meant, and what to say about it."""

    token: Token
    problem: Diagnostic


def headless(source: Source, first: Token | None) -> Diagnostic:
    span = Span(0, min(1, len(source.text))) if first is None else span_of(first)
    message = "a file begins with the name of its strategy"
    return syntax(span, message, help='write `strategy NAME "what it does"` first')


def second_strategy(token: Token) -> Diagnostic:
    return syntax(span_of(token), "a file holds one strategy, named on top")


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
    found, stop = failure.found, failure.stop
    opener = _unclosed(failure)
    if found is None and opener is not None:
        message = f"this `{opener}` is never closed by a `{_CLOSING[str(opener)]}`"
        return syntax(span_of(opener), message)
    if found is not None and "NAME" in stop.accepts and _keyword(found.type):
        return syntax(span_of(found), f"`{found}` is a keyword and cannot be a name")
    span = span_of(failure.tokens[-1] if found is None else found)
    known = _labelled().get((stop.position, stop.kind))
    if known is not None:
        message, hint = known
        if message == _FILTER:
            span = _last_if(failure) or span
        return syntax(span, message, help=hint)
    shown = "the end of this declaration" if found is None else f"`{found}`"
    return syntax(span, f"unexpected {shown}", label=f"expected {_expected(stop.accepts)}")


def _last_if(failure: Failure) -> Span | None:
    """The `if` whose missing `else` stopped the parser."""
    before = reversed(failure.tokens[: failure.index])
    return next((span_of(token) for token in before if token.type == "IF"), None)


def _unclosed(failure: Failure) -> Token | None:
    """The innermost bracket that is open where the parser stopped."""
    opened: list[Token] = []
    for token in failure.tokens[: failure.index]:
        if str(token) in _CLOSING:
            opened.append(token)
        elif opened and str(token) == _CLOSING[str(opened[-1])]:
            opened.pop()
    return opened[-1] if opened else None


def _expected(accepts: Set[str]) -> str:
    kinds = set(accepts)
    names = []
    if kinds >= _EXPRESSION_STARTS:
        names.append("an expression")
        kinds -= _EXPRESSION_ONLY
    if kinds - _OPERATORS - {END}:
        kinds -= _OPERATORS | {END}
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


@cache
def _labelled() -> dict[tuple[object, str], tuple[str, str]]:
    """(parser state, kind of token) -> (message, help), from the examples."""
    labels: dict[tuple[object, str], tuple[str, str]] = {}
    for message, hint, examples in _EXAMPLES:
        for example in examples:
            labels.setdefault(_stop(example), (message, hint))
    return labels


def _stop(example: str) -> tuple[object, str]:
    """Where the parser stops in a broken declaration."""
    tokens: list[Token] = []
    Scanner(example).read_into(tokens)
    automaton = Automaton("strategy" if tokens[0].type == "STRATEGY" else "declaration")
    try:
        automaton.feed(tokens)
        automaton.finish(tokens[-1])
    except Stopped as stop:
        return stop.position, stop.kind
    raise AssertionError(f"the example of a mistake has none: {example}")
