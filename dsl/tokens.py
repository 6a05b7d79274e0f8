"""Text to tokens, past characters that cannot begin any: each is reported, and lexing goes on.

Where the author's intent is clear (an unclosed text, a number with an unknown unit) a token stands
in for what was written, so that the parser does not complain once more. Knows no grammar rules.
"""

import re
import unicodedata
from dataclasses import dataclass

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.lalr import Scanner, Token
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.rules.form import syntax
from mserve.dsl.source import Source
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span

MAX_PROBLEMS = 50

_NUMBER_WITH_SUFFIX = re.compile(r"[0-9]+(?:\.[0-9]+)?([A-Za-z0-9_%]+)")
_CLOSED_TEXT = re.compile(r'"(?:[^"\\\r\n]|\\[^\r\n])*"')
_REST_OF_LINE = re.compile(r"[^\r\n]*")
_STRANGE_RUN = re.compile(r"[^\sA-Za-z0-9_\"#(){}\[\],:=<>+\-*/.]+|.", re.DOTALL)
_SPELLINGS = {
    "&&": "`and` is written in letters",
    "||": "`or` is written in letters",
    "!": "`not` is written in letters",
    "%": "there is no remainder operator; a ratio is written `10%`, without a space",
    ";": "declarations and steps end by themselves, without `;`",
    "'": 'texts stand in double quotes: "..."',
    ".": "a fraction begins with a digit: `0.5`; a param's range is written `LO..HI`",
}


@dataclass(frozen=True)
class Lexed:
    """`problems` are in order; `stopped` says that there were too many to go on."""

    tokens: list[Token]
    problems: list[Diagnostic]
    stopped: bool = False


def tokenize(source: Source) -> Lexed:
    """All tokens without comments and white space; problems have the rule `syntax`."""
    scanner = Scanner(source.text)
    tokens: list[Token] = []
    problems: list[Diagnostic] = []
    while (offset := scanner.read_into(tokens)) is not None:
        problem, stand_in_kind = _strange(source.text, offset)
        problems.append(problem)
        if len(problems) == MAX_PROBLEMS:
            return Lexed(tokens, problems, stopped=True)
        stand_in = scanner.skip(source.slice(problem.span), stand_in_kind)
        if stand_in is not None:
            tokens.append(stand_in)
    return Lexed(tokens, problems)


def _strange(text: str, offset: int) -> tuple[Diagnostic, str]:
    """What cannot be a token at `offset`, and the kind of token that stands in for it (or none)."""
    number = _NUMBER_WITH_SUFFIX.match(text, offset)
    if number:
        return _bad_number(number), "NUMBER"
    if text[offset] == '"':
        return _bad_text(text, offset), "TEXT"
    run = _STRANGE_RUN.match(text, offset)
    assert run is not None, "the last alternative matches any character"
    return _bad_characters(run), ""


def _bad_number(match: re.Match[str]) -> Diagnostic:
    suffix = match.group(1)
    span = Span(*match.span())
    if suffix.startswith("_"):
        return syntax(span, "digits are written without `_`")
    meant = nearest(suffix, SUFFIXES)
    units = "units are " + ", ".join(f"`{each}`" for each in SUFFIXES)
    hint = f"did you mean `{meant}`? {units}" if meant else units
    return syntax(span, f"unknown unit `{suffix}`", help=hint)


def _bad_text(text: str, offset: int) -> Diagnostic:
    closed = _CLOSED_TEXT.match(text, offset)
    if closed:
        message = 'a text has no other escapes than `\\"` and `\\\\`'
        return syntax(Span(*closed.span()), message)
    line = _REST_OF_LINE.match(text, offset)
    assert line is not None, "matches anything"
    end = max(offset + 1, offset + len(line.group().rstrip()))
    return syntax(
        Span(offset, end), "this text is not closed", help='texts end with `"` on the same line'
    )


def _bad_characters(match: re.Match[str]) -> Diagnostic:
    found = match.group()
    span = Span(*match.span())
    for spelling, hint in _SPELLINGS.items():
        if found.startswith(spelling):
            return syntax(span, f"`{found}` has no meaning here", help=hint)
    if found.isprintable() and found.isalpha():
        return syntax(
            span, f"`{found}` is not a name", help="names consist of a-z, A-Z, 0-9 and `_`"
        )
    name = unicodedata.name(found[0], f"U+{ord(found[0]):04X}").lower()
    return syntax(span, "unexpected character", label=name)
