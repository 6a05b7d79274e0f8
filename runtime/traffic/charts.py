"""Line charts as SVG elements, for pages that bring their own colours.

Owns axes, ticks, marks, what hovering shows, and where things stand; classes `line-0`, `line-1`, ... are
the page's to colour and to dash. Knows no outcomes: input are points.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from xml.etree.ElementTree import Element, SubElement

from mserve.runtime.traffic.shapes import Point, corners, place, straight, text_width, words_at

WIDTH, HEIGHT = 640, 288
LEFT, RIGHT, TOP, BOTTOM = 60, 28, 26, 52
_NUM_TICKS = 6
_MAX_LABELS = 6  # of marks; more of them stand without words
_READING_LINE = 17  # from line to line
_TITLE_END = 140  # where a title of an upright axis ends, at the latest


@dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right, joined; `style` ends the name of its class. Dots say that there is
    nothing between the points."""

    name: str
    points: Sequence[Point]
    style: int | str
    has_dots: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From zero to `end`. `text` is how its ticks read; without `places` they stand at round numbers."""

    title: str
    end: float
    text: Callable[[float], str]
    places: Sequence[float] = ()

    def ticks(self) -> Iterable[float]:
        """Up to about `_NUM_TICKS` of them, unless they have places."""
        if self.places:
            return self.places
        step = round_step(self.end / _NUM_TICKS)
        return (index * step for index in range(math.floor(self.end / step * (1 + 1e-9)) + 1))


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at an x value, with words beside it."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What hovering near `at`, a value of `axis`, shows: a headline, and (words, the style of the line
    that they are about) below it."""

    axis: Literal["x", "y"]
    at: float
    head: str
    rows: Sequence[tuple[str, int | str]]


def time_axis(title: str, end_s: float) -> Axis:
    """All of its ticks in one unit."""
    end_s = max(end_s, 1e-6)
    if end_s < 1:
        return Axis(title, end_s, lambda value: f"{value * 1e3:,.4g} ms")
    return Axis(title, end_s, lambda value: f"{value:,.6g} s")


def round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    marks: Sequence[Mark] = (),
    readings: Sequence[Reading] = (),
) -> Element:
    """What lies beyond the axes is cut off, and marks there are left out. `readings` ascend, all of
    them on one axis."""
    svg = Element(
        "svg",
        {"class": "chart", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": title},
    )
    clip = "clip-" + "".join(c if c.isalnum() else "-" for c in title.lower())
    area = SubElement(SubElement(svg, "clipPath", {"id": clip}), "rect")
    area.attrib |= place(LEFT, TOP - 2, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM + 4)
    _draw_axes(svg, x, y)
    shown = [mark for mark in marks if mark.at <= x.end]
    for mark in shown:
        straight(svg, "mark", x_at(mark.at, x), TOP, x_at(mark.at, x), HEIGHT - BOTTOM)
    for line in lines:
        _draw_line(svg, line, x, y, clip)
    _draw_labels(svg, shown, x)
    _draw_readings(svg, readings, x, y)
    return svg


def _draw_axes(svg: Element, x: Axis, y: Axis) -> None:
    bottom = HEIGHT - BOTTOM
    for tick in y.ticks():
        at = _y(tick, y)
        straight(svg, "grid", LEFT, at, WIDTH - RIGHT, at)
        words_at(svg, y.text(tick), LEFT - 6, at + 4, "end")
    for tick in x.ticks():
        at = x_at(tick, x)
        straight(svg, "grid", at, TOP, at, bottom)
        words_at(svg, x.text(tick), at, bottom + 19, "middle")
    words_at(svg, x.title, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle")
    if y.title:
        words_at(svg, y.title, 4, 13, "start")


def _draw_line(svg: Element, line: Line, x: Axis, y: Axis, clip: str) -> None:
    if not line.points:
        return
    points = [(round(x_at(a, x), 1), round(_y(b, y), 1)) for a, b in line.points]
    attributes = {
        "class": f"line line-{line.style}",
        "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in corners(points)),
        "clip-path": f"url(#{clip})",
    }
    drawn = SubElement(svg, "polyline", attributes)
    SubElement(drawn, "title").text = line.name
    for a, b in points if line.has_dots else ():
        centre = {"cx": f"{a:.1f}", "cy": f"{b:.1f}", "r": "3.5"}
        SubElement(svg, "circle", {"class": f"dot line-{line.style}", **centre})


def _draw_labels(svg: Element, marks: Sequence[Mark], x: Axis) -> None:
    """A single one over the chart, if it is not in the way there of the axis' title or the edge."""
    if len(marks) > _MAX_LABELS:
        return
    if len(marks) == 1:
        at, half = x_at(marks[0].at, x), text_width(marks[0].words) / 2
        if _TITLE_END + half <= at <= WIDTH - half:
            words_at(svg, marks[0].words, at, TOP - 8, "middle").set("class", "label")
            return
    for index, mark in enumerate(marks):
        _label_beside(svg, mark, x, TOP + 14 + 16 * index)


def _label_beside(svg: Element, mark: Mark, x: Axis, y: float) -> None:
    """On the side of its line where there is more room."""
    at, is_left = x_at(mark.at, x), mark.at < x.end / 2
    words = words_at(svg, mark.words, at + (6 if is_left else -6), y, "start" if is_left else "end")
    words.set("class", "label")


# --- what hovering shows ------------------------------------------------------------------------


def _draw_readings(svg: Element, readings: Sequence[Reading], x: Axis, y: Axis) -> None:
    """Each over the band of the values that are nearest to it."""
    if not readings:
        return
    middles = [(a.at + b.at) / 2 for a, b in pairwise(readings)]
    end = x.end if readings[0].axis == "x" else y.end
    bounds = [0.0, *middles, end]
    for reading, (begin, until) in zip(readings, pairwise(bounds), strict=True):
        group = SubElement(svg, "g", {"class": "reading"})
        if reading.axis == "x":
            left, right, at = x_at(begin, x), x_at(until, x), x_at(reading.at, x)
            band = place(left, TOP, right - left, HEIGHT - TOP - BOTTOM)
            ends = (at, float(TOP), at, float(HEIGHT - BOTTOM))
        else:
            low, high, at = _y(begin, y), _y(until, y), _y(reading.at, y)
            band = place(LEFT, high, WIDTH - LEFT - RIGHT, low - high)
            ends = (float(LEFT), at, float(WIDTH - RIGHT), at)
        SubElement(group, "rect", {"class": "band", **band})
        straight(group, "cross", *ends)
        _draw_box(group, reading, *_corner(reading, at))


def _corner(reading: Reading, at: float) -> Point:
    """The upper left corner of a reading's box: beside the crosshair, inside the chart."""
    width, height = _box_size(reading)
    if reading.axis == "x":
        right = at + 8
        return (right if right + width <= WIDTH else max(0.0, at - 8 - width)), TOP + 4.0
    is_high = at < (TOP + HEIGHT - BOTTOM) / 2  # a distribution is then at the right
    top = at + 8 if is_high else at - 8 - height
    left = WIDTH - RIGHT - 4 - width if is_high else LEFT + 4.0
    return max(0.0, left), min(max(0.0, top), HEIGHT - height)


def _box_size(reading: Reading) -> tuple[float, float]:
    longest = max([reading.head, *(words for words, _ in reading.rows)], key=len)
    return text_width(longest) + 16, (len(reading.rows) + 1) * _READING_LINE + 10


def _draw_box(group: Element, reading: Reading, left: float, top: float) -> None:
    SubElement(group, "rect", {"class": "box", **place(left, top, *_box_size(reading)), "rx": "4"})
    text = words_at(group, "", left + 8, top + _READING_LINE, "start")
    SubElement(text, "tspan", {"class": "head"}).text = reading.head
    for words, style in reading.rows:
        below = {"x": f"{left + 8:.1f}", "dy": str(_READING_LINE)}
        SubElement(text, "tspan", {"class": f"ink-{style}", **below}).text = words


# --- places -----------------------------------------------------------------------------------


def x_at(value: float, axis: Axis) -> float:
    return LEFT + value / axis.end * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - value / axis.end * (HEIGHT - TOP - BOTTOM)
