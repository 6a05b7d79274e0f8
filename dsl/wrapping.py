"""One item as text: blanks between tokens, and line breaks where it is too wide.

A line that is too wide is broken before the operator or word, or behind the comma, that stands in
the fewest brackets; of equals before the one that binds loosest, of those as far right as fits.
Knows tokens, nothing of what they mean together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mserve.dsl.comments import Comment
from mserve.dsl.items import Piece
from mserve.dsl.lalr import Token
from mserve.dsl.token_kinds import LITERALS

WIDTH = 100
CONTINUED = 4  # blanks by which the further lines of an item are indented

_TIGHT_BEFORE = frozenset([",", ")", "]", "..", ":"])
_TIGHT_AFTER = frozenset(["(", "[", "..", ":"])
_ENDS_OPERAND = LITERALS | {"NAME", "PROMPT", "REST"}
# How tightly what stands around a break belongs together; a comma's break is behind it.
_COMMA = 0
_RANKS: Mapping[str, int] = {
    "when": 0,
    **dict.fromkeys(("for", "where"), 1),
    **dict.fromkeys(("if", "else"), 2),
    "or": 3,
    "and": 4,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), 5),
    **dict.fromkeys("+-", 6),
    **dict.fromkeys("*/", 7),
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text without its indentation, and the comment behind it (or alone: no text)."""

    indent: int
    text: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class _Word:
    """A token with what stands before it: a blank or not, and a possible break or None.

    A break is (brackets around it, rank): smaller ones are taken first.
    """

    text: str
    blank: bool
    breaks: tuple[int, int] | None


def lines_of_item(pieces: Sequence[Piece], indent: int, trailing: str = "") -> list[Line]:
    """The lines of an item; a comment among its pieces ends its line."""
    lines: list[Line] = []
    words: list[_Word] = []
    for piece, word in zip(pieces, _words(pieces), strict=True):
        if word is not None:
            words.append(word)
            continue
        assert isinstance(piece, Comment), "only comments are no words"
        lines += _wrapped(words, indent, bool(lines))
        words = []
        if piece.trails:
            lines[-1] = Line(lines[-1].indent, lines[-1].text, piece.text)
        else:
            lines.append(Line(indent + CONTINUED, "", piece.text))
    lines += _wrapped(words, indent, bool(lines))
    last = lines[-1]
    return [*lines[:-1], Line(last.indent, last.text, trailing or last.comment)]


def one_line(pieces: Sequence[Piece]) -> str:
    """An item without comments inside, however wide."""
    return _joined([word for word in _words(pieces) if word is not None])


def _words(pieces: Sequence[Piece]) -> Iterator[_Word | None]:
    """One per piece, None for a comment."""
    before: Token | None = None
    depth = 0
    sign = False  # the token before is a sign, not an operator between two operands
    for piece in pieces:
        if isinstance(piece, Comment):
            yield None
            continue
        text = str(piece)
        depth -= text in (")", "]")
        yield _Word(text, not sign and _blank(before, piece), _break(before, piece, depth))
        depth += text in ("(", "[")
        sign = text == "-" and not _ends_operand(before)
        before = piece


def _blank(before: Token | None, token: Token) -> bool:
    text = str(token)
    if before is None or text in _TIGHT_BEFORE or str(before) in _TIGHT_AFTER:
        return False
    if text == "(":
        return before.type != "NAME"
    return not (text == "[" and before.type in ("NAME", "PROMPT"))


def _break(before: Token | None, token: Token, depth: int) -> tuple[int, int] | None:
    if before is None:
        return None
    if str(before) == ",":
        return depth, _COMMA
    if str(token) == "-" and not _ends_operand(before):
        return None
    rank = _RANKS.get(str(token))
    return None if rank is None else (depth, rank)


def _ends_operand(token: Token | None) -> bool:
    return token is not None and (token.type in _ENDS_OPERAND or str(token) in (")", "]"))


def _wrapped(words: Sequence[_Word], indent: int, continued: bool) -> list[Line]:
    lines: list[Line] = []
    begin = 0
    while begin < len(words):
        inset = indent + CONTINUED if continued or lines else indent
        end = _end_of_line(words, begin, WIDTH - inset)
        lines.append(Line(inset, _joined(words[begin:end])))
        begin = end
    return lines


def _end_of_line(words: Sequence[_Word], begin: int, room: int) -> int:
    """The index behind the last word of the line that begins at `begin`."""
    width = len(words[begin].text)
    best: tuple[tuple[int, int], int] | None = None
    for index in range(begin + 1, len(words)):
        word = words[index]
        if width > room and best is not None:
            return best[1]
        if word.breaks is not None and (best is None or word.breaks <= best[0]):
            best = word.breaks, index  # the first one even if too wide all the same
        width += word.blank + len(word.text)
    return best[1] if width > room and best is not None else len(words)


def _joined(words: Sequence[_Word]) -> str:
    text = "".join(f"{' ' * word.blank}{word.text}" for word in words)
    return text.removeprefix(" ")
