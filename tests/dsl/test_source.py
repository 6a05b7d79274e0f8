"""Offsets to lines and columns, whatever ends the lines; decoding."""

import pytest

from mserve.dsl.source import Position, Source
from mserve.dsl.syntax import Span


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_and_columns(line_end: str) -> None:
    source = Source.from_text(line_end.join(["ab", "", "\tc"]))
    assert source.position(0) == Position(1, 1)
    assert source.position(source.text.index("c")) == Position(3, 2)
    assert [source.line(number) for number in (1, 2, 3)] == ["ab", "", "\tc"]


def test_the_end_of_the_text_has_a_position() -> None:
    assert Source.from_text("").position(0) == Position(1, 1)
    assert Source.from_text("ab").position(2) == Position(1, 3)
    assert Source.from_text("ab\n").position(3) == Position(2, 1)


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert Source.from_bytes("\ufeffab".encode()).text == "ab"
    assert Source.from_text("\ufeffab").position(0) == Position(1, 1)


def test_the_first_byte_that_is_not_utf8_is_remembered() -> None:
    source = Source.from_bytes(b"\xef\xbb\xbf# \xc3\xa4 \xff\xfe!", "a.mserve")
    assert source.undecodable == Span(4, 5)
    assert source.slice(Span(4, 5)) == "\N{REPLACEMENT CHARACTER}"
    assert Source.from_bytes("# ä".encode()).undecodable is None
