"""The text of one strategy: offsets to lines and columns, and decoding of bytes.

Owns nothing but the text; knows neither syntax nor diagnostics' looks. Offsets count characters of
`text` from 0 (a byte order mark is not part of it); lines and columns count from 1. A line ends at
`\\n`, `\\r\\n` or `\\r`; a tab is one column here (render/full.py decides how wide it looks).
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from mserve.dsl.syntax import Span

_LINE_END = re.compile(r"\r\n|\n|\r")
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Position:
    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """`undecodable` is where the first byte stood that is not UTF-8 (each is U+FFFD in `text`)."""

    text: str
    path: str = "<text>"
    undecodable: Span | None = None

    @classmethod
    def from_text(cls, text: str, path: str = "<text>") -> "Source":
        return cls(text.removeprefix(_BYTE_ORDER_MARK), path)

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "<text>") -> "Source":
        try:
            return cls.from_text(data.decode("utf-8"), path)
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
            text = data.decode("utf-8", "replace").removeprefix(_BYTE_ORDER_MARK)
            return cls(text, path, Span(len(before), len(before) + 1))

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    @property
    def num_lines(self) -> int:
        return len(self._line_starts)

    def position(self, offset: int) -> Position:
        """Line and column of an offset; one past the end is a valid offset."""
        line = bisect_right(self._line_starts, offset)
        return Position(line, offset - self._line_starts[line - 1] + 1)

    def line_start(self, line: int) -> int:
        return self._line_starts[line - 1]

    def line(self, line: int) -> str:
        """The text of a line, without its line end."""
        end = self._line_starts[line] if line < self.num_lines else len(self.text)
        return self.text[self._line_starts[line - 1] : end].rstrip("\r\n")

    def slice(self, span: Span) -> str:
        return self.text[span.start : span.end]

    def one_line(self, span: Span) -> str:
        """The characters of a span with single blanks for its white space."""
        return " ".join(self.slice(span).split())
