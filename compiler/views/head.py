"""What stands above drawn plans: the strategy, and either what it declares or what it decided and why.

A table of two columns in SVG; what the rows say is the subject's, where they stand is decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.compiler.views.layout import (
    LABEL_SIZE,
    LINE_HEIGHT,
    MARGIN,
    WIDTH,
    cut_text,
    text_width,
    wrap_text,
)
from mserve.compiler.views.shapes import text
from mserve.compiler.views.subject import Decided, Subject

_TITLE_SIZE = 17
_COLUMN = 52.0  # where the words begin, right of their kind
_MAX_LINES = 3


@dataclass(frozen=True, slots=True)
class _Row:
    """`remark` stands behind the words, smaller."""

    kind: str
    words: str
    remark: str = ""
    is_strong: bool = False


def draw_head(subject: Subject, y: float) -> tuple[list[str], float]:
    """The elements, and where the next thing may begin."""
    strategy, room = subject.strategy, WIDTH - 2.0 * MARGIN
    name = cut_text(strategy.name, room, _TITLE_SIZE * 1.08)
    parts = [text(name, MARGIN, y + 4, "title")]
    for line in wrap_text(strategy.description, room, _MAX_LINES):
        y += LINE_HEIGHT + 4
        parts.append(text(line, MARGIN, y + 4, "dim"))
    y += 8
    rows = _declared(subject) if subject.decided is None else _decided(subject, subject.decided)
    for row in rows:
        drawn, y = _draw(row, y)
        parts += drawn
    return parts, y + 8


def _draw(row: _Row, y: float) -> tuple[list[str], float]:
    """The remark stands on the line of the words if it fits there, else below."""
    left = MARGIN + _COLUMN
    room = WIDTH - MARGIN - left
    y += LINE_HEIGHT + 2
    parts = [text(row.kind, MARGIN, y, "dim")]
    lines = wrap_text(row.words, room, _MAX_LINES, LABEL_SIZE)
    for number, line in enumerate(lines):
        y += LINE_HEIGHT if number else 0
        parts.append(text(line, left, y, "strong" if row.is_strong else None))
    if row.remark:
        width = text_width(lines[-1] if lines else "", LABEL_SIZE) + 10
        is_beside = width + text_width(row.remark) <= room
        for line in [row.remark] if is_beside else wrap_text(row.remark, room - 16, _MAX_LINES):
            y += 0 if is_beside else LINE_HEIGHT
            parts.append(text(line, left + (width if is_beside else 16), y, "remark"))
    return parts, y


def _declared(subject: Subject) -> Iterator[_Row]:
    strategy = subject.strategy
    for name, default, low, high in strategy.params:
        yield _Row("param", f"{name} = {default}", f"{low} to {high}")
    for kind, words in strategy.others:
        yield _Row(kind, words)
    for name, words in strategy.bindings:
        yield _Row("let", f"{name} = {words}")


def _decided(subject: Subject, decided: Decided) -> Iterator[_Row]:
    yield _Row("given", ", ".join(decided.given))
    definitions = dict(subject.strategy.bindings)
    for name, value in decided.spelled.items():
        yield _Row("let", f"{name} = {value}", definitions[name])
    for name, (before, after) in decided.adapted.items():
        yield _Row("adapt", f"{name} = {after}", f"from {before}")
    for tried in decided.routes:
        words = f"{tried.route}: {tried.outcome}"
        yield _Row("route", words, tried.why, is_strong=tried.outcome == "taken")
