"""Line charts as SVG elements, for pages that bring their own colours.

Owns axes, ticks and where things stand; classes `line-0`, `line-1`, ... are the page's to colour and
to dash. Knows no outcomes: input are points.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40
_NUM_TICKS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right, joined; `style` is the number of its class."""

    name: str
    points: Sequence[Point]
    style: int


@dataclass(frozen=True, slots=True)
class Axis:
    """From zero to `end`. `text` is how its ticks read."""

    title: str
    end: float
    text: Callable[[float], str]

    def ticks(self) -> Iterable[float]:
        """Round numbers, up to about `_NUM_TICKS` of them."""
        step = _round_step(self.end / _NUM_TICKS)
        return (index * step for index in range(math.floor(self.end / step * (1 + 1e-9)) + 1))


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def line_chart(
    title: str, lines: Sequence[Line], x: Axis, y: Axis, mark: float | None = None
) -> Element:
    """`mark` is an x value to draw a vertical line at. What lies beyond the axes is cut off."""
    svg = Element(
        "svg",
        {"class": "chart", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": title},
    )
    clip = f"clip-{title.lower().replace(' ', '-')}"
    area = SubElement(SubElement(svg, "clipPath", {"id": clip}), "rect")
    area.attrib |= {
        "x": str(LEFT),
        "y": str(TOP - 2),
        "width": str(WIDTH - LEFT - RIGHT),
        "height": str(HEIGHT - TOP - BOTTOM + 4),
    }
    _draw_axes(svg, x, y)
    if mark is not None and mark <= x.end:
        at = _x(mark, x)
        _straight(svg, "mark", at, TOP, at, HEIGHT - BOTTOM)
    for line in lines:
        _draw_line(svg, line, x, y, clip)
    return svg


def _draw_axes(svg: Element, x: Axis, y: Axis) -> None:
    bottom = HEIGHT - BOTTOM
    for tick in y.ticks():
        at = _y(tick, y)
        _straight(svg, "grid", LEFT, at, WIDTH - RIGHT, at)
        _text(svg, y.text(tick), LEFT - 6, at + 4, "end")
    for tick in x.ticks():
        at = _x(tick, x)
        _straight(svg, "grid", at, TOP, at, bottom)
        _text(svg, x.text(tick), at, bottom + 15, "middle")
    _text(svg, x.title, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle")


def _draw_line(svg: Element, line: Line, x: Axis, y: Axis, clip: str) -> None:
    if not line.points:
        return
    points = " ".join(f"{_x(a, x):.1f},{_y(b, y):.1f}" for a, b in line.points)
    attributes = {
        "class": f"line line-{line.style}",
        "points": points,
        "clip-path": f"url(#{clip})",
    }
    drawn = SubElement(svg, "polyline", attributes)
    SubElement(drawn, "title").text = line.name


def _straight(svg: Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    SubElement(svg, "line", {"class": kind, **{key: f"{at:.1f}" for key, at in ends.items()}})


def _text(svg: Element, words: str, x: float, y: float, anchor: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    SubElement(svg, "text", place).text = words


def _x(value: float, axis: Axis) -> float:
    return LEFT + value / axis.end * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - value / axis.end * (HEIGHT - TOP - BOTTOM)
