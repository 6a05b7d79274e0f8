"""Where everything of a drawn plan stands, in pixels: lanes, a row per step, the axis, arrows.

Every label has a row of its own and is cut to what fits, so that no two can overlap whatever the
times and names are. Knows a scene, no SVG.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mserve.compiler.views.quantities import duration
from mserve.compiler.views.scene import Act, Move, Scene

WIDTH = 960
MARGIN = 16
FONT_SIZE = 12
LABEL_SIZE = 12.8  # what labels are measured with: bold ones are wider
BAR_HEIGHT = 13
LINE_HEIGHT = 16

_ROW_HEIGHT = 38
_LANE_PADDING = 7
_MIN_NAME_WIDTH, _MAX_NAME_WIDTH = 70, 210
_MIN_BAR_WIDTH = 4.0
_ARROW_SPACING = 9.0
_PROMPT_SHARE = 0.62  # of the axis, where the answer would leave less to what comes before it
_TICK_SPACING = 76.0


# --- text --------------------------------------------------------------------------------------


def text_width(text: str, font_size: float = FONT_SIZE) -> float:
    """An upper estimate for common sans-serif fonts."""
    return sum(_character_width(character) for character in text) * font_size


def _character_width(character: str) -> float:
    if character in "iljtfr.,:;'|!()[] ":
        return 0.37
    if ord(character) > 0x2E80:
        return 1.05
    return 0.92 if character in "mwMW@%—" else 0.74 if character.isupper() else 0.61


def cut_text(text: str, width: float, font_size: float = FONT_SIZE) -> str:
    """The text, or as much of it as fits and an ellipsis."""
    if text_width(text, font_size) <= width:
        return text
    while text and text_width(text + "…", font_size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrap_text(text: str, width: float, max_lines: int, font_size: float = FONT_SIZE) -> list[str]:
    """Lines that fit, broken at spaces and within words that fit no line; what is left over ends in
    an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) == max_lines - 1:
            return [*lines, cut_text(" ".join(words), width, font_size)]
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", font_size) <= width:
            line += f" {words.pop(0)}"
        if text_width(line, font_size) > width:
            line, rest = _broken(line, width, font_size)
            words.insert(0, rest)
        lines.append(line)
    return lines


def _broken(word: str, width: float, font_size: float) -> tuple[str, str]:
    """As much of a word as fits, if possible up to an underscore or a bracket, and the rest."""
    fits = max(1, sum(text_width(word[:end], font_size) <= width for end in range(1, len(word))))
    breaks = [end for end in range(fits // 2 + 1, fits + 1) if word[end - 1] in "_([,.-"]
    end = breaks[-1] if breaks else fits
    return word[:end], word[end:]


# --- the axis ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps times or columns to pixels, in two straight pieces that meet at `bend`.

    An answer takes much longer than its prompt: behind the first token a second is shorter.
    """

    left: float
    right: float
    bend: float
    end: float

    @property
    def is_bent(self) -> bool:
        return 0 < self.bend < self.end

    @property
    def bend_x(self) -> float:
        share = _PROMPT_SHARE if self.is_bent else 1.0
        return self.left + (self.right - self.left) * share

    def x(self, value: float) -> float:
        value = min(max(value, 0.0), self.end)
        if not self.is_bent:
            return _between(self.left, self.right, value, self.end)
        if value <= self.bend:
            return _between(self.left, self.bend_x, value, self.bend)
        return _between(self.bend_x, self.right, value - self.bend, self.end - self.bend)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Round times and what they are called, with room for it; none close to the bend."""
        yield self.left, duration(0)
        pieces = [(0.0, self.bend if self.is_bent else self.end)]
        if self.is_bent:
            pieces.append((self.bend, self.end))
        for begin, end in pieces:
            pixels = self.x(end) - self.x(begin)
            for time in _round_times(begin, end, int(pixels / _TICK_SPACING)):
                is_close = self.is_bent and abs(self.x(time) - self.bend_x) < _TICK_SPACING / 2
                if not is_close:
                    yield self.x(time), duration(time)


def _between(left: float, right: float, value: float, end: float) -> float:
    return left + (right - left) * (value / end if end > 0 else 0.0)


def _round_times(begin: float, end: float, at_most: int) -> Iterator[float]:
    """Multiples of 1, 2 or 5 times a power of ten in `(begin, end]`."""
    if end <= begin or at_most < 1:
        return
    rough = (end - begin) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(begin / step) + 1
    for number in range(first, first + at_most + 1):
        if number * step <= end * (1 + 1e-9):
            yield number * step


def axis_of(scene: Scene, left: float) -> Axis:
    right, end = WIDTH - MARGIN - 8.0, scene.end
    if not scene.is_timed or scene.first_token >= end * _PROMPT_SHARE:
        return Axis(left, right, 0.0, end)
    return Axis(left, right, scene.first_token, end)


# --- rows, lanes, arrows -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A step's place: its bar from `left` over `middle` to `right` at height `bar_y`, its label."""

    act: Act
    left: float
    middle: float
    right: float
    bar_y: float
    label: str
    times: str  # behind the label; empty where nothing is timed or there is no room
    label_x: float
    label_y: float


@dataclass(frozen=True, slots=True)
class Lane:
    """A worker's band. `busy_until` is the right end of the bar for earlier prompts, if any."""

    name: str
    lines: tuple[str, ...]
    top: float
    bottom: float
    busy_s: float
    busy_until: float | None


@dataclass(frozen=True, slots=True)
class Arrow:
    """From one bar's edge down or up to another's: upright, unless the bars are very short."""

    move: Move
    begin_x: float
    begin_y: float
    end_x: float
    end_y: float


@dataclass(frozen=True, slots=True)
class Layout:
    """`top` and `bottom` bound the lanes; labels of the axis stand above."""

    axis: Axis
    name_width: float
    lanes: tuple[Lane, ...]
    rows: tuple[Row, ...]
    arrows: tuple[Arrow, ...]
    top: float
    bottom: float


def lay_out(scene: Scene, top: float) -> Layout:
    longest = max(text_width(name, LABEL_SIZE) for name in scene.lanes) + 12
    name_width = min(_MAX_NAME_WIDTH, max(_MIN_NAME_WIDTH, longest))
    axis = axis_of(scene, MARGIN + name_width + 10)
    lanes, rows, y = [], [], top
    for number, name in enumerate(scene.lanes):
        acts = [act for act in scene.acts if act.lane == number]
        busy_s = scene.busy_s[number]
        first = y + _LANE_PADDING + (_ROW_HEIGHT if busy_s > 0 else 0)
        rows += [_row(scene, act, axis, first + i * _ROW_HEIGHT) for i, act in enumerate(acts)]
        lines = tuple(wrap_text(name, name_width - 8, 3, LABEL_SIZE))
        bottom = first + max(len(acts) * _ROW_HEIGHT, len(lines) * LINE_HEIGHT) + _LANE_PADDING
        until = max(axis.x(busy_s), axis.left + _MIN_BAR_WIDTH) if busy_s > 0 else None
        lanes.append(Lane(name, lines, y, bottom, busy_s, until))
        y = bottom
    arrows = tuple(_arrows(scene, axis, {row.act.step.id: row for row in rows}))
    return Layout(axis, name_width, tuple(lanes), tuple(rows), arrows, top, y)


def _row(scene: Scene, act: Act, axis: Axis, top: float) -> Row:
    """The label stands on the side of the bar from which no arrow comes."""
    left = min(axis.x(act.span.begin), axis.right - _MIN_BAR_WIDTH)
    right = max(axis.x(act.span.end), left + _MIN_BAR_WIDTH)
    middle = min(max(axis.x(act.span.middle), left), right)
    room = axis.right - axis.left
    label = cut_text(f"{act.step.id}  {act.phrase}", room, LABEL_SIZE)
    times = f"{duration(act.span.begin)} to {duration(act.span.end)}" if scene.is_timed else ""
    width = text_width(f"{label}  {times}", LABEL_SIZE)
    if width > room:
        times, width = "", text_width(label, LABEL_SIZE)
    is_below = _is_reached_from_above(scene, act)
    label_x = max(axis.left, min(left, axis.right - width))
    bar_y = top + (2 if is_below else 18)
    label_y = top + (28 if is_below else 13)
    return Row(act, left, middle, right, bar_y, label, times, label_x, label_y)


def _is_reached_from_above(scene: Scene, act: Act) -> bool:
    """Whether arrows end or begin at the upper edge of the step's bar, and none at the lower."""
    others = [move.source for move in scene.moves if move.target == act.step.id]
    others += [move.target for move in scene.moves if move.source == act.step.id]
    return bool(others) and all(scene.act(name).lane < act.lane for name in others)


def _arrows(scene: Scene, axis: Axis, rows: dict[str, Row]) -> Iterator[Arrow]:
    """Side by side over the time in which the KV moves, never on top of one another."""
    taken: list[float] = []
    for move in scene.moves:
        source, target = rows[move.source], rows[move.target]
        sisters = [each.ticket for each in scene.moves if each.source == move.source]
        share = (sisters.index(move.ticket) + 1) / (len(sisters) + 1)
        x = _free_x(target.left + (target.right - target.left) * share, axis, taken)
        taken.append(x)
        below, above = (0, BAR_HEIGHT) if source.bar_y < target.bar_y else (BAR_HEIGHT, 0)
        yield Arrow(
            move,
            _within(source, x),
            source.bar_y + above,
            _within(target, x),
            target.bar_y + below,
        )


def _within(row: Row, x: float) -> float:
    return min(max(x, row.left + 1), row.right - 1)


def _free_x(wanted: float, axis: Axis, taken: list[float]) -> float:
    """The nearest place that is no other arrow's."""
    for number in range(len(taken) + 1):
        for x in (wanted + number * _ARROW_SPACING, wanted - number * _ARROW_SPACING):
            if axis.left <= x <= axis.right and all(
                abs(x - other) >= _ARROW_SPACING - 1 for other in taken
            ):
                return x
    return wanted
