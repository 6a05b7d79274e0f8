"""Text to tokens, past characters that cannot begin any: each is reported, and lexing goes on.

Where the author's intent is clear (an unclosed text, a number with an unknown unit) a token stands
in for what was written, so that the parser does not complain once more. What is said is strange.py's.
"""

import re
from dataclasses import dataclass

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.lalr import Scanner, Token
from mserve.dsl.rules.form import syntax
from mserve.dsl.source import Source
from mserve.dsl.strange import describe
from mserve.dsl.syntax import Span

MAX_PROBLEMS = 50
MAX_LINE = 10_000  # characters
MAX_TEXT = 2_000_000

_LINE_ENDS = re.compile(r"\r\n?|\n|\Z")


@dataclass(frozen=True)
class Lexed:
    """`problems` are in order; `stopped` says that there were too many to go on."""

    tokens: list[Token]
    problems: list[Diagnostic]
    stopped: bool = False


def tokenize(source: Source) -> Lexed:
    """All tokens without comments and white space; problems have the rule `syntax`."""
    too_long = _too_long(source.text)
    if too_long is not None:
        return Lexed([], [too_long], stopped=True)
    scanner = Scanner(source.text)
    tokens: list[Token] = []
    problems: list[Diagnostic] = []
    while (offset := scanner.read_into(tokens)) is not None:
        strange = describe(source.text, offset)
        problems.append(strange.problem)
        if len(problems) == MAX_PROBLEMS:
            return Lexed(tokens, problems, stopped=True)
        stand_in = scanner.skip(source.text[offset : strange.end], strange.stand_in)
        if stand_in is not None:
            tokens.append(stand_in)
    return Lexed(tokens, problems)


def _too_long(text: str) -> Diagnostic | None:
    """What no author writes by hand, and would take seconds to read."""
    if len(text) > MAX_TEXT:
        return syntax(Span(MAX_TEXT, MAX_TEXT), f"a strategy has at most {MAX_TEXT} characters")
    begin = 0
    for match in _LINE_ENDS.finditer(text):
        if match.start() - begin > MAX_LINE:
            break
        begin = match.end()
    else:
        return None
    return syntax(Span(begin, begin + 1), f"this line has more than {MAX_LINE} characters")
