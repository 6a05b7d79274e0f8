"""Text to tokens, past characters that cannot begin any: each is reported, and lexing goes on.

Where the author's intent is clear (an unclosed text, a number with an unknown unit) a token stands
in for what was written, so that the parser does not complain once more. Knows no grammar rules.
"""

import re
import unicodedata
from dataclasses import dataclass

from mserve.dsl import habits
from mserve.dsl.diagnostics import Diagnostic, Edit
from mserve.dsl.habits import Habit
from mserve.dsl.lalr import Scanner, Token
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.rules.form import syntax
from mserve.dsl.source import Source
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span

MAX_PROBLEMS = 50
MAX_LINE = 10_000  # characters
MAX_TEXT = 2_000_000

_NUMBER_WITH_SUFFIX = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z0-9_%]+)")
_CLOSED_TEXT = re.compile(r'"(?:[^"\\\r\n]|\\[^\r\n])*"')
_LINE_ENDS = re.compile(r"\r\n?|\n|\Z")
_REST_OF_LINE = re.compile(r"[^\r\n]*")
_STRANGE_RUN = re.compile(r"[^\sA-Za-z0-9_\"#(){}\[\],:=<>+\-*/.]+|.", re.DOTALL)
_SPELLED_UNITS = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("msec", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    "%%": "%",
}
_MEANT_UNITS = {  # near, but not the same
    "m": "min",
    **dict.fromkeys(("k", "kb", "ki"), "KiB"),
    **dict.fromkeys(("mb", "mi"), "MiB"),
    **dict.fromkeys(("g", "gb", "gi"), "GiB"),
    **dict.fromkeys(("t", "tb", "ti"), "TiB"),
}
_BLANK_BEFORE_PERCENT = re.compile(r"([0-9.]+)([ \t]+)$")


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
        problem, stand_in_kind = _strange(source.text, offset)
        problems.append(problem)
        if len(problems) == MAX_PROBLEMS:
            return Lexed(tokens, problems, stopped=True)
        stand_in = scanner.skip(source.slice(problem.span), stand_in_kind)
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


def _strange(text: str, offset: int) -> tuple[Diagnostic, str]:
    """What cannot be a token at `offset`, and the kind of token that stands in for it (or none)."""
    number = _NUMBER_WITH_SUFFIX.match(text, offset)
    if number:
        return _bad_number(number), "NUMBER"
    if text[offset] == '"':
        return _bad_text(text, offset), "TEXT"
    fraction = habits.FRACTION.match(text, offset)
    if fraction:
        return _bad_fraction(fraction), "NUMBER"
    quoted = habits.QUOTED.match(text, offset)
    if quoted:
        return _bad_quotes(quoted), "TEXT"
    return _bad_characters(text, offset)


def _bad_number(match: re.Match[str]) -> Diagnostic:
    digits, suffix = match.groups()
    span = Span(*match.span())
    if suffix.startswith("_"):
        plain = match.group().replace("_", "")
        fix = (Edit(span, plain),) if plain.isdigit() else ()
        return syntax(span, "digits are written without `_`", help=f"write `{plain}`", fix=fix)
    if re.fullmatch(r"[eE][0-9]+", suffix):
        return syntax(span, "numbers have no exponents", help="write all digits: `1000000`")
    spelled = _SPELLED_UNITS.get(suffix.lower())
    if spelled is not None:
        fix = (Edit(span, digits + spelled),)
        return syntax(span, f"the unit `{suffix}` is written `{spelled}`", fix=fix)
    meant = _MEANT_UNITS.get(suffix.lower()) or nearest(suffix, SUFFIXES)
    units = "units are " + ", ".join(f"`{each}`" for each in SUFFIXES)
    if meant is None:
        return syntax(span, f"unknown unit `{suffix}`", help=units)
    hint = f"did you mean `{digits}{meant}`? {units}"
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


def _bad_fraction(match: re.Match[str]) -> Diagnostic:
    span, written = Span(*match.span()), f"0{match.group()}"
    fix = (Edit(span, written),)
    return syntax(span, "a fraction begins with a digit", help=f"write `{written}`", fix=fix)


def _bad_quotes(match: re.Match[str]) -> Diagnostic:
    span, inside = Span(*match.span()), match.group()[1:-1]
    plain = '"' not in inside and "\\" not in inside
    fix = (Edit(span, f'"{inside}"'),) if plain else ()
    message = "a text stands in straight double quotes"
    return syntax(span, message, help=f'write `"{inside}"`' if plain else "", fix=fix)


def _bad_characters(text: str, offset: int) -> tuple[Diagnostic, str]:
    for pattern, habit in habits.CHARACTERS:
        match = pattern.match(text, offset)
        if match:
            return _habitual(text, Span(*match.span()), habit), habit.kind
    match = _STRANGE_RUN.match(text, offset)
    assert match is not None, "the last alternative matches any character"
    found, span = match.group(), Span(*match.span())
    if found.isprintable() and found.isalpha():
        hint = "names consist of a-z, A-Z, 0-9 and `_`"
        return syntax(span, f"`{found}` is not a name", help=hint), ""
    name = unicodedata.name(found[0], f"U+{ord(found[0]):04X}").lower()
    return syntax(span, "unexpected character", label=name), ""


def _habitual(text: str, span: Span, habit: Habit) -> Diagnostic:
    percent = _BLANK_BEFORE_PERCENT.search(text, max(0, span.start - 20), span.start)
    if percent and text[span.start] == "%" and not _begins_operand(text, span.end):
        blank = Span(*percent.span(2))
        message, hint = "a ratio is written without a blank", f"write `{percent[1]}%`"
        return syntax(span, message, help=hint, fix=(Edit(blank, ""),))
    if habit.replacement is None:
        return syntax(span, habit.message, help=habit.help)
    replacement = _between_blanks(text, span, habit.replacement)
    hint = habit.help or (
        f"write `{replacement.strip()}`" if replacement.strip() else "leave it out"
    )
    return syntax(span, habit.message, help=hint, fix=(Edit(span, replacement),))


def _between_blanks(text: str, span: Span, replacement: str) -> str:
    """A word's own blanks only where the text has none."""
    if replacement.isspace():
        return replacement
    if text[span.start - 1 : span.start].isspace():
        replacement = replacement.lstrip()
    return replacement.rstrip() if text[span.end : span.end + 1].isspace() else replacement


def _begins_operand(text: str, offset: int) -> bool:
    """Whether what follows on the line could be divided by, so that `%` was meant as an operator."""
    rest = _REST_OF_LINE.match(text, offset)
    assert rest is not None, "matches anything"
    return (
        re.match(r"\s*(?!(?:in|and|or|if|else|on|where|for)\b)[A-Za-z0-9_(]", rest.group())
        is not None
    )
