"""Words for what can be no token: numbers, texts and characters that the language does not have.

Says also which kind of token was most likely meant. Knows no grammar rules.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from mserve.dsl import builtins, habits, synonyms
from mserve.dsl.diagnostics import Diagnostic, Edit
from mserve.dsl.habits import Habit
from mserve.dsl.misspelled_numbers import NUMBER, bad_number
from mserve.dsl.rules.form import syntax
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span

_CLOSED_TEXT = re.compile(r'"(?:[^"\\\r\n]|\\[^\r\n])*"')
_REST_OF_LINE = re.compile(r"[^\r\n]*")
_STRANGE_RUN = re.compile(r"[^\sA-Za-z0-9_\"#(){}\[\],:=<>+\-*/.]+|.", re.DOTALL)
_WORD_BEFORE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")
_REACHED = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)")
_NUMBERED = re.compile(r"\.([0-9]+)\b")
_BLANK_BEFORE_PERCENT = re.compile(r"([0-9.]+)([ \t]+)$")
_OPERAND = re.compile(r"\s*(?!(?:in|and|or|if|else|on|where|for)\b)[A-Za-z0-9_(]")


@dataclass(frozen=True)
class Strange:
    """`end` is where reading goes on; `stand_in` the kind of token that was meant, or empty."""

    problem: Diagnostic
    end: int
    stand_in: str = ""


def undecodable(source: Source, found: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """For a text that was read from other bytes, unless `found` says so where a token is."""
    span, habit = source.undecodable, habits.NOT_UTF8
    if span is None or any(each.span == span for each in found):
        return ()
    return (syntax(span, habit.message, help=habit.help),)


def describe(text: str, offset: int) -> Strange:
    """What cannot be a token at `offset`."""
    number = NUMBER.match(text, offset)
    if number:
        return Strange(bad_number(number), number.end(), "NUMBER")
    if text[offset] == '"':
        return _instead(_bad_text(text, offset), "TEXT")
    fraction = habits.FRACTION.match(text, offset)
    if fraction:
        return _instead(_bad_fraction(fraction), "NUMBER")
    quoted = habits.QUOTED.match(text, offset)
    if quoted:
        return _instead(_bad_quotes(quoted), "TEXT")
    return _reached(text, offset) or _bad_characters(text, offset)


def _instead(problem: Diagnostic, stand_in: str) -> Strange:
    return Strange(problem, problem.span.end, stand_in)


def _bad_text(text: str, offset: int) -> Diagnostic:
    closed = _CLOSED_TEXT.match(text, offset)
    if closed:
        message = 'a text has no other escapes than `\\"` and `\\\\`'
        return syntax(Span(*closed.span()), message, help="write a backslash as `\\\\`")
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


def _reached(text: str, offset: int) -> Strange | None:
    """`d.load`, `request.tenant`, `prompt.length`: what is said in the author's own names."""
    after = _REACHED.match(text, offset) or _NUMBERED.match(text, offset)
    before = _WORD_BEFORE.search(text, max(0, offset - 80), offset)
    if after is None or before is None:
        return None
    owner, name = before.group(), after.group(1)
    habit = synonyms.NAMES.get(name) or habits.WORDS.get(name)
    if name.isdigit():
        hint = f"in tests, a worker is named by its position: `{owner}[{name}]`"
    elif habit is not None:
        hint = f"{habit.message}: {habit.help}" if habit.help else habit.message
    elif name in builtins.BARE:
        hint = f"write `{name}`"
    elif name == "tokens":
        hint = "write `tokens(prompt)`"
    elif name in builtins.FOLDS:
        hint = f"write `{name}(load(w) for w in {owner})`"
    elif _is_variable(text, offset, owner):
        hint = f"write `{name}({owner})`"
    elif name in builtins.NAMES:
        hint = f"of a worker write `{name}({owner})`, of a pool `min({name}(w) for w in {owner})`"
    else:
        hint = "write `load(d)`, `tokens(prompt)`"
    message = "nothing is reached with `.`: what is observed is called"
    return Strange(syntax(Span(before.start(), after.end()), message, help=hint), after.end())


def _is_variable(text: str, offset: int, name: str) -> bool:
    """A comprehension on this line is over `name`: it is a worker."""
    line = _REST_OF_LINE.match(text, offset)
    return (
        line is not None and re.search(rf"\bfor {re.escape(name)} in\b", line.group()) is not None
    )


def _bad_characters(text: str, offset: int) -> Strange:
    for pattern, habit in habits.CHARACTERS:
        match = pattern.match(text, offset)
        if match:
            return _instead(_habitual(text, Span(*match.span()), habit), habit.kind)
    match = _STRANGE_RUN.match(text, offset)
    assert match is not None, "the last alternative matches any character"
    found, span = match.group(), Span(*match.span())
    if found.isprintable() and found.isalpha():
        around = Span(_word_start(text, span.start), _word_end(text, span.end))
        hint = "names consist of a-z, A-Z, 0-9 and `_`"
        word = text[around.start : around.end]
        return Strange(syntax(around, f"`{word}` is not a name", help=hint), around.end)
    name = unicodedata.name(found[0], f"U+{ord(found[0]):04X}").lower()
    return _instead(syntax(span, "unexpected character", label=name), "")


def _word_start(text: str, offset: int) -> int:
    before = _WORD_BEFORE.search(text, max(0, offset - 80), offset)
    return before.start() if before else offset


def _word_end(text: str, offset: int) -> int:
    while offset < len(text) and (text[offset].isalnum() or text[offset] == "_"):
        offset += 1
    return offset


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
    """A word's own blanks only where the text has none. What is left out parts two words, if they
    stood at its sides."""
    if replacement.isspace():
        return replacement
    if not replacement and _is_in_word(text, span.start - 1) and _is_in_word(text, span.end):
        return " "
    if text[span.start - 1 : span.start].isspace():
        replacement = replacement.lstrip()
    return replacement.rstrip() if text[span.end : span.end + 1].isspace() else replacement


def _is_in_word(text: str, offset: int) -> bool:
    around = text[max(0, offset) : offset + 1]
    return around.isalnum() or around in ("_", "%")  # a number's `%` is its last letter


def _begins_operand(text: str, offset: int) -> bool:
    """Whether what follows on the line could be divided by, so that `%` was meant as an operator."""
    rest = _REST_OF_LINE.match(text, offset)
    assert rest is not None, "matches anything"
    return _OPERAND.match(rest.group()) is not None
