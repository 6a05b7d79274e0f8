"""The long format: the source lines, carets under the primary place, dashes under the others.

    error[unit-mismatch]: cannot compare a duration with a count
      --> strategies/mine.mserve:9:28
       |
     9 | route short when load(d) < 256 {
       |                  -------   ^^^ a bare number is a count here
       |                  |
       |                  a duration
    help: give it a unit: `256ms`

A place over several lines is shown up to the end of its first; of a very long line a part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from mserve.dsl.diagnostics import Diagnostic, Label
from mserve.dsl.render.printable import printable, width
from mserve.dsl.source import Source

_LONG = 500  # characters of a line that are shown
_BEFORE = 60  # of them before the first place


@dataclass(frozen=True)
class _Mark:
    """A label on one line, in characters, or columns of the terminal, counted from 0."""

    line: int
    start: int
    length: int
    text: str
    sign: str  # `^` for the primary place, else `-`


def render_full(source: Source, diagnostics: Sequence[Diagnostic]) -> str:
    """The diagnostics with an empty line after each."""
    return "".join(f"{_block(source, diagnostic)}\n\n" for diagnostic in diagnostics)


def _block(source: Source, diagnostic: Diagnostic) -> str:
    marks = [_mark(source, label, index == 0) for index, label in enumerate(diagnostic.labels)]
    margin = len(str(max(mark.line for mark in marks)))
    position = source.position(diagnostic.span.start)
    lines = [
        f"{diagnostic.severity}[{diagnostic.rule}]: {printable(diagnostic.message)}",
        f" {' ' * margin}--> {printable(source.path)}:{position.line}:{position.column}",
        f" {' ' * margin} |",
    ]
    ordered = sorted(marks, key=lambda mark: (mark.line, mark.start))
    previous = None
    for number, group in groupby(ordered, key=lambda mark: mark.line):
        if previous is not None and number > previous + 1:
            lines.append("...")
        previous = number
        shown, placed = _placed(source.line(number), list(group))
        lines.append(f" {number:>{margin}} | {printable(shown)}".rstrip())
        lines += [f" {' ' * margin} | {below}" for below in _below(placed)]
    if diagnostic.help:
        lines.append(f"help: {printable(diagnostic.help)}")
    return "\n".join(lines)


def _mark(source: Source, label: Label, primary: bool) -> _Mark:
    """In characters."""
    start = source.position(label.span.start)
    length = label.span.end - label.span.start
    return _Mark(
        start.line, start.column - 1, length, printable(label.text), "^" if primary else "-"
    )


def _placed(line: str, marks: list[_Mark]) -> tuple[str, list[_Mark]]:
    """What is shown of a line, and its marks in columns of the terminal."""
    first = max(0, marks[0].start - _BEFORE) if len(line) > _LONG else 0
    shown = line[first : first + _LONG]
    return shown, [_in_columns(shown, mark, first) for mark in marks]


def _in_columns(shown: str, mark: _Mark, first: int) -> _Mark:
    begin = min(mark.start - first, len(shown))
    length = width(printable(shown[begin : begin + mark.length]))
    return replace(mark, start=width(printable(shown[:begin])), length=max(1, length))


def _below(marks: list[_Mark]) -> Iterator[str]:
    """The lines under a source line: the signs, then a text per mark from right to left.

    The rightmost mark's text stands beside its sign; each other hangs under its own, joined by `|`.
    """
    signs = ""
    for mark in sorted(marks, key=lambda each: each.sign == "^"):
        signs = _put(signs, mark.start, mark.sign * mark.length)
    last = marks[-1]
    beside = last.start + last.length >= max(mark.start + mark.length for mark in marks)
    yield f"{signs} {last.text}".rstrip() if beside else signs
    hanging = [mark for mark in (marks[:-1] if beside else marks) if mark.text]
    while hanging:
        bars = ""
        for mark in hanging:
            bars = _put(bars, mark.start, "|")
        yield bars
        current = hanging.pop()
        yield _put(bars[: current.start], current.start, current.text)


def _put(line: str, column: int, text: str) -> str:
    """The line with `text` written over it from a column on."""
    return line[:column].ljust(column) + text + line[column + len(text) :]
