"""Charts: what is drawn where, what is cut off, and what hovering shows."""

import re
from itertools import pairwise
from xml.etree.ElementTree import Element

import pytest

from mserve.runtime.traffic.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Line,
    Mark,
    Reading,
    line_chart,
    round_step,
)

X, Y = Axis("x", 10.0, str), Axis("share", 1.0, str)


def points_of(chart: Element) -> list[tuple[float, float]]:
    line = chart.find("polyline")
    assert line is not None
    pairs = [pair.split(",") for pair in line.attrib["points"].split(" ")]
    return [(float(x), float(y)) for x, y in pairs]


def labels_of(chart: Element) -> list[str | None]:
    return [text.text for text in chart.iter("text") if text.get("class") == "label"]


def test_what_lies_beyond_an_axis_is_cut_off() -> None:
    chart = line_chart("a chart", [Line("l", [(0.0, 0.0), (20.0, 1.0)], 0)], X, Y)
    assert points_of(chart)[1][0] > WIDTH
    line = chart.find("polyline")
    assert line is not None
    assert line.attrib["clip-path"] == "url(#clip-a-chart)"
    assert [each.get("id") for each in chart.iter("clipPath")] == ["clip-a-chart"]


def test_points_are_drawn_where_the_axes_say() -> None:
    chart = line_chart("t", [Line("l", [(0.0, 0.0), (5.0, 1.0), (10.0, 0.5)], 0)], X, Y)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    assert points_of(chart) == [
        (LEFT, bottom),
        ((LEFT + right) / 2, TOP),
        (right, (bottom + TOP) / 2),
    ]


def test_points_that_add_nothing_are_left_out() -> None:
    steps = [(0.0, 0.2), (1.0, 0.2), (1.0, 0.2), (2.0, 0.2), (2.0, 0.7), (2.0, 0.9), (3.0, 0.9)]
    corners = points_of(line_chart("t", [Line("l", steps, 0)], X, Y))
    assert corners == points_of(
        line_chart("t", [Line("l", [steps[0], steps[3], steps[5], steps[6]], 0)], X, Y)
    )
    assert len(corners) == 4


def test_both_axes_and_every_line_are_named() -> None:
    chart = line_chart("t", [Line("a", [(0.0, 0.0)], 0), Line("b", [(1.0, 1.0)], "p99")], X, Y)
    assert {"x", "share"} <= {text.text for text in chart.iter("text")}
    assert [line.findtext("title") for line in chart.iter("polyline")] == ["a", "b"]
    assert [line.get("class") for line in chart.iter("polyline")] == [
        "line line-0",
        "line line-p99",
    ]


def test_dots_stand_at_the_points() -> None:
    line = Line("l", [(0.0, 0.0), (5.0, 0.0), (10.0, 0.0)], 0, has_dots=True)
    dots = list(line_chart("t", [line], X, Y).iter("circle"))
    assert [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots] == [
        (LEFT, HEIGHT - BOTTOM),
        ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM),
        (WIDTH - RIGHT, HEIGHT - BOTTOM),
    ]


def test_ticks_are_round() -> None:
    assert list(Axis("", 10.0, str).ticks()) == [0, 2, 4, 6, 8, 10]
    assert list(Axis("", 0.7, str).ticks()) == pytest.approx([0, 0.2, 0.4, 0.6])
    assert list(Axis("", 2, str, [0, 2]).ticks()) == [0, 2]
    assert round_step(0.03) == pytest.approx(0.05)


def test_marks_have_their_words_unless_they_are_many() -> None:
    marks = [Mark(1.0, "goal"), Mark(11.0, "beyond")]
    chart = line_chart("t", [], X, Y, marks)
    assert sum(line.get("class") == "mark" for line in chart.iter("line")) == 1
    assert labels_of(chart) == ["goal"]
    assert labels_of(line_chart("t", [], X, Y, [Mark(1.0, "a"), Mark(9.9, "b")])) == ["a", "b"]
    many = line_chart("t", [], X, Y, [Mark(n / 2, "x") for n in range(9)])
    assert sum(line.get("class") == "mark" for line in many.iter("line")) == 9
    assert labels_of(many) == []


@pytest.mark.parametrize(("axis", "least", "end"), [("x", LEFT, WIDTH - RIGHT), ("y", TOP, HEIGHT)])
def test_readings_share_an_axis_out_among_them(axis: str, least: float, end: float) -> None:
    assert axis in ("x", "y")
    size = 10.0 if axis == "x" else 1.0
    readings = [
        Reading(axis, size * share, f"at {share}", [("1 s  a", 0), ("2 s  b", 1)])  # type: ignore[arg-type]  # parametrize gives a str
        for share in (0.0, 0.3, 1.0)
    ]
    groups = line_chart("t", [], X, Y, readings=readings).findall("g")
    bands = [next(rect for rect in group.iter("rect")) for group in groups]
    length = "width" if axis == "x" else "height"
    edges = sorted(
        (float(band.attrib[axis]), float(band.attrib[axis]) + float(band.attrib[length]))
        for band in bands
    )
    assert all(left[1] == pytest.approx(right[0], abs=0.2) for left, right in pairwise(edges))
    assert edges[0][0] == pytest.approx(least)
    assert edges[-1][1] == pytest.approx(end if axis == "x" else HEIGHT - BOTTOM)
    for group, reading in zip(groups, readings, strict=True):
        words = [span.text for span in group.iter("tspan")]
        assert words == [reading.head, "1 s  a", "2 s  b"]


def test_the_box_of_a_reading_is_inside_the_chart() -> None:
    rows = [("1.23 s  a strategy with quite a long name", 0)] * 8
    for axis, size in (("x", 10.0), ("y", 1.0)):
        readings = [Reading(axis, size * n / 20, "head", rows) for n in range(21)]  # type: ignore[arg-type]  # as above
        chart = line_chart("t", [], X, Y, readings=readings)
        for box in (rect for rect in chart.iter("rect") if rect.get("class") == "box"):
            left, top = float(box.attrib["x"]), float(box.attrib["y"])
            assert left >= 0
            assert left + float(box.attrib["width"]) <= WIDTH
            assert top >= 0
            assert top + float(box.attrib["height"]) <= HEIGHT


def test_ids_hold_nothing_that_a_link_to_them_could_not() -> None:
    chart = line_chart("time (s) & more", [], X, Y)
    (clip,) = chart.iter("clipPath")
    assert re.fullmatch(r"[\w-]+", clip.attrib["id"])
