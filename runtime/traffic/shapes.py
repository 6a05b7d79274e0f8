"""Shapes of charts as SVG elements: lines, rectangles, words. Knows neither axes nor what is drawn."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

Point = tuple[float, float]

_LETTER_SIZE = 13  # the page's


def place(x: float, y: float, width: float, height: float) -> dict[str, str]:
    """Of a rectangle, as attributes."""
    given = {"x": x, "y": y, "width": width, "height": height}
    return {key: f"{value:.1f}" for key, value in given.items()}


def straight(svg: Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    """A line of a class."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    SubElement(svg, "line", {"class": kind, **{key: f"{at:.1f}" for key, at in ends.items()}})


def words_at(svg: Element, words: str, x: float, y: float, anchor: str) -> Element:
    at = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    text = SubElement(svg, "text", at)
    text.text = words
    return text


def text_width(words: str) -> float:
    """About as wide as most letters make it."""
    return len(words) * _LETTER_SIZE * 0.62


def corners(points: Sequence[Point]) -> list[Point]:
    """Without points that stand still, or go on level or upright as the one before did."""
    kept: list[Point] = []
    for point in points:
        if kept and point == kept[-1]:
            continue
        if len(kept) > 1 and any(kept[-2][i] == kept[-1][i] == point[i] for i in (0, 1)):
            kept.pop()
        kept.append(point)
    return kept
