"""Offsets of a text to positions of the protocol and back: lines and code units, from 0.

What a code unit is, client and server agree on; ours count characters. Knows no protocol types.
"""

from enum import StrEnum

from mserve.dsl.source import Source

BYTE_ORDER_MARK = "\ufeff"  # part of the client's text, never of a source's


class Encoding(StrEnum):
    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"


def num_units(text: str, encoding: Encoding) -> int:
    """Half a surrogate pair, which JSON can carry, counts as a character of its own."""
    if encoding is Encoding.UTF32 or text.isascii():
        return len(text)
    if encoding is Encoding.UTF16:
        return len(text.encode("utf-16-le", "surrogatepass")) // 2
    return len(text.encode("utf-8", "surrogatepass"))


class Positions:
    """Of one source. `has_mark`: the client's text begins with a byte order mark."""

    def __init__(self, source: Source, encoding: Encoding, *, has_mark: bool = False) -> None:
        self._source = source
        self._encoding = encoding
        self._mark = BYTE_ORDER_MARK if has_mark else ""

    def at(self, offset: int) -> tuple[int, int]:
        """(line, code units before it in the line), both from 0."""
        place = self._source.position(offset)
        start = self._source.line_start(place.line)
        before = self._lead(place.line) + self._source.text[start:offset]
        return place.line - 1, num_units(before, self._encoding)

    def offset(self, line: int, units: int) -> int:
        """Behind a line's end is its end, behind the text's end the text's; inside of a character
        is behind it."""
        if line >= self._source.num_lines:
            return len(self._source.text)
        text, lead = self._source.line(line + 1), self._lead(line + 1)
        units = max(0, units - num_units(lead, self._encoding))
        return self._source.line_start(line + 1) + self._num_characters(text, units)

    def _lead(self, line: int) -> str:
        return self._mark if line == 1 else ""

    def _num_characters(self, text: str, units: int) -> int:
        if self._encoding is Encoding.UTF32 or text.isascii():
            return min(units, len(text))
        passed = 0
        for index, character in enumerate(text):
            if passed >= units:
                return index
            passed += num_units(character, self._encoding)
        return len(text)
