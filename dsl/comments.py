"""The comments of a text: the parser drops them, formatting and hover bring them back.

Knows tokens and the gaps between them, no grammar.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mserve.dsl.lalr import Token, span_of
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span

_COMMENT = re.compile(r"#[^\r\n]*")


@dataclass(frozen=True, slots=True)
class Comment:
    """`text` begins with `#`; `trails` tells a comment behind something on its line."""

    span: Span
    text: str
    trails: bool


def comments_of(source: Source, tokens: Sequence[Token]) -> Iterator[Comment]:
    """All comments in text order; `tokens` are all tokens of the source."""
    end = 0
    for gap in [*map(span_of, tokens), Span(len(source.text), len(source.text))]:
        for match in _COMMENT.finditer(source.text, end, gap.start):
            start = match.start()
            before = source.text[source.line_start(source.position(start).line) : start]
            text = match.group().rstrip()
            yield Comment(Span(start, start + len(text)), text, bool(before.strip()))
        end = gap.end


class Docs:
    """What comments say about the lines of a source."""

    def __init__(self, source: Source, comments: Iterable[Comment]) -> None:
        self._by_line = {source.position(each.span.start).line: each for each in comments}

    def of_line(self, line: int) -> str:
        """The comment behind it, else those on lines of their own directly above."""
        found = self._by_line.get(line)
        if found is not None and found.trails:
            return _words([found])
        above: list[Comment] = []
        while (found := self._by_line.get(line - 1 - len(above))) and not found.trails:
            above.append(found)
        return _words(above[::-1])


def _words(comments: Sequence[Comment]) -> str:
    return " ".join(each.text.lstrip("#").strip() for each in comments).strip()
