"""Tokens and comments cut into items: a declaration's head, a step, a setting, a line of a test, a
closing brace, a comment of its own.

Expects tokens that the parser accepts. Knows where items begin, not how they are laid out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mserve.dsl.comments import Comment
from mserve.dsl.lalr import Token, span_of
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span
from mserve.dsl.token_kinds import DECLARATIONS, STATEMENTS, WITH_SETTINGS

SETTING = "SETTING"
CLOSING = "}"
COMMENT = "#"

Piece = Token | Comment


@dataclass
class Item:
    """`kind` is its keyword's token type, `SETTING`, `CLOSING` or `COMMENT`.

    `level` counts the braces around it; `blank_before`: an empty line stands above. Comments inside
    are among the `pieces`, the one behind its last token is `trailing`.
    """

    kind: str
    level: int
    blank_before: bool
    pieces: list[Piece]
    trailing: str = ""

    @property
    def opens(self) -> bool:
        return isinstance(self.pieces[-1], Token) and str(self.pieces[-1]) == "{"


def items_of(source: Source, tokens: Sequence[Token], comments: Sequence[Comment]) -> list[Item]:
    items: list[Item] = []
    left = list(reversed(comments))
    end = 0
    for token, begun in zip([*tokens, None], [*_begins(tokens), ("", 0)], strict=True):
        start = len(source.text) if token is None else span_of(token).start
        while left and left[-1].span.start < start:
            comment = left.pop()
            blank = _blank_between(source, end, comment.span.start)
            _add_comment(items, comment, begun, blank)
            end = comment.span.end
        if token is None:
            break
        if begun is not None:
            items.append(Item(*begun, _blank_between(source, end, start), [token]))
        else:
            items[-1].pieces.append(token)
        end = span_of(token).end
    return items


def _add_comment(
    items: list[Item], comment: Comment, following: tuple[str, int] | None, blank: bool
) -> None:
    """`following` is the item that the next token begins, None if it goes on with the current."""
    if following is None:
        items[-1].pieces.append(comment)
    elif comment.trails:
        items[-1].trailing = comment.text
    else:
        kind, level = following
        items.append(Item(COMMENT, level + (kind == CLOSING), blank, [comment]))


def _begins(tokens: Sequence[Token]) -> Iterator[tuple[str, int] | None]:
    """Per token the kind and level of the item that it begins, None inside of one."""
    block = ""
    braces = brackets = 0
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        text = str(token)
        brackets += (text in ("(", "[")) - (text in (")", "]"))
        if braces == 0 and token.type in DECLARATIONS:
            block = token.type
            yield block, 0
        elif text == "}":
            braces -= 1
            yield CLOSING, 0
        elif braces and token.type in STATEMENTS:
            yield token.type, 1
        elif braces and brackets == 0 and block in WITH_SETTINGS and str(after) == "=":
            yield SETTING, 1
        else:
            braces += text == "{"
            yield None


def _blank_between(source: Source, end: int, start: int) -> bool:
    return source.position(start).line - source.position(end).line > 1


def place(piece: Piece) -> Span:
    return piece.span if isinstance(piece, Comment) else span_of(piece)
