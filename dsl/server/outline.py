"""What editors show along a file: lenses above declarations, and what can be folded.

Read from the tokens, so that it stays while a line is broken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.dsl.comments import comments_of
from mserve.dsl.lalr import span_of
from mserve.dsl.literals import text_value
from mserve.dsl.server.cursor import begins_declaration
from mserve.dsl.server.document import Document
from mserve.dsl.syntax import Span

PLAN = "mserve.plan"
TEST = "mserve.test"


@dataclass(frozen=True, slots=True)
class Lens:
    """Runs `command` for a route, a test's title, or all of the file (None)."""

    span: Span
    title: str
    command: str
    subject: str | None


def lenses(document: Document) -> Iterator[Lens]:
    tokens = document.tokens
    has_tests = any(token.type == "TEST" for token in tokens)
    pairs = zip([None, *tokens], tokens, [*tokens[1:], None], strict=False)
    for before, token, after in pairs:
        if after is None or not begins_declaration(before, token):
            continue
        span = span_of(token)
        if token.type == "STRATEGY":
            yield Lens(span, "plan", PLAN, None)
            if has_tests:
                yield Lens(span, "run all tests", TEST, None)
        elif token.type == "ROUTE" and after.type == "NAME":
            yield Lens(span, "plan", PLAN, str(after))
        elif token.type == "TEST" and after.type == "TEXT" and after[:1] == after[-1:] == '"':
            yield Lens(span, "run test", TEST, text_value(after))


@dataclass(frozen=True, slots=True)
class Fold:
    """Lines from 0, both of them shown in part or whole when folded."""

    first: int
    last: int
    is_comment: bool = False


def folds(document: Document) -> Iterator[Fold]:
    """Blocks on several lines, and comments of several lines."""
    opened: list[int] = []
    for token in document.tokens:
        if token.type == "LBRACE":
            opened.append(document.source.position(span_of(token).start).line - 1)
        elif token.type == "RBRACE" and opened:
            first, last = opened.pop(), document.source.position(span_of(token).start).line - 1
            if last > first + 1:
                yield Fold(first, last - 1)
    yield from _comment_folds(document)


def _comment_folds(document: Document) -> Iterator[Fold]:
    position = document.source.position
    comments = comments_of(document.source, document.tokens)
    lines = [position(each.span.start).line - 1 for each in comments if not each.trails]
    first = previous = -1
    for line in [*lines, -1]:
        if line != previous + 1 or previous < 0:
            if previous > first:
                yield Fold(first, previous, is_comment=True)
            first = line
        previous = line
