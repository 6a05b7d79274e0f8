"""Lanes of workers as SVG: how much of each stretch of a run they are busy, with what, and their faults.

Owns what stands where and what hovering shows. Kinds of work are told apart by pattern and by their order,
too, not by colour alone. Knows no simulation: input are seconds in bins.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from mserve.runtime.traffic.charts import LEFT, RIGHT, WIDTH, Axis, Mark, time_axis, x_at
from mserve.runtime.traffic.markup import clean
from mserve.runtime.traffic.report import seconds_text, share_text
from mserve.runtime.traffic.shapes import corners, place, straight, text_width, words_at

KINDS: Mapping[str, str] = {  # from below to above in a lane, with what legends say
    "prefill": "prefill: prompts, and answers beside them",
    "decode": "decode: answers only",
    "moves": "moves to and from host memory",
}
DEAD = "dead"
_MAX_READINGS = 50  # over the whole of a run
_POOL_ROW, _NAME_ROW, _LANE, _GAP, _FOOT = 24, 18, 26, 6, 48  # heights
_LABEL_ROOM = 8  # beside the words of a mark


@dataclass(frozen=True, slots=True)
class Lane:
    """Busy seconds of each bin, by kind, of a worker or on average over several. `dead` are spans of
    the time, the last one without an end perhaps."""

    name: str
    busy_s: Mapping[str, Sequence[float]]
    marks: Sequence[Mark] = ()
    dead: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class LanePool:
    title: str
    lanes: Sequence[Lane]


@dataclass(frozen=True, slots=True)
class Lanes:
    """Of one run, in bins of `width_s` from its beginning. Its requests take `span_s` of the time until
    `end_s`: shares of the whole are of that."""

    pools: Sequence[LanePool]
    width_s: float
    end_s: float
    span_s: float

    def all(self) -> Iterator[Lane]:
        return (lane for pool in self.pools for lane in pool.lanes)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Bins [first, last), and the time that they are of."""

    first: int
    last: int
    begin_s: float
    end_s: float


def lane_chart(title: str, lanes: Lanes, end_s: float) -> Element:
    """Of at least one lane. The time axis ends at `end_s`, so that several charts may have the same."""
    x = time_axis(f"time since the run began; means over {_width_text(lanes.width_s)}", end_s)
    tops = list(_tops(lanes))
    bottom = tops[-1] + _LANE
    size = {"class": "chart", "viewBox": f"0 0 {WIDTH} {bottom + _FOOT}"}
    svg = Element("svg", {**size, "role": "img", "aria-label": clean(title)})
    SubElement(svg, "desc").text = _in_words(lanes)
    _draw_ticks(svg, tops, x)
    for lane, top in zip(lanes.all(), tops, strict=True):
        _draw_lane(svg, lane, top, list(_stretches(lanes, x.end, 1)), x)
    _draw_pools(svg, lanes, tops)
    _draw_readings(svg, lanes, tops, x)
    for lane, top in zip(lanes.all(), tops, strict=True):  # after the readings, which hide it
        _at_rest(svg, _of_the_whole(lane, lanes.span_s), WIDTH - RIGHT, top - 5, "end")
    _at_rest(svg, x.title, _middle(), bottom + _FOOT - 5, "middle")
    return svg


def patterns() -> Element:
    """What lanes are filled with; a page has it once."""
    svg = Element("svg", {"class": "patterns", "width": "0", "height": "0", "aria-hidden": "true"})
    for kind in (*KINDS, DEAD):
        given = {"id": f"kind-{kind}", "class": f"kind-{kind}", "patternUnits": "userSpaceOnUse"}
        pattern = SubElement(svg, "pattern", {**given, "width": "6", "height": "6"})
        SubElement(pattern, "rect", {"class": "tint", "width": "6", "height": "6"})
        SubElement(pattern, "path", {"class": "hatch", "d": "M-1,1l2,-2M0,6l6,-6M5,7l2,-2"})
    return svg


def lane_legend(parent: Element, every: Iterable[Lanes]) -> None:
    """Of what there is in them."""
    shown = [lane for lanes in every for lane in lanes.all()]
    found = SubElement(parent, "p", {"class": "legend"})
    for kind, words in {**KINDS, DEAD: DEAD}.items():
        if any(lane.dead if kind == DEAD else sum(lane.busy_s[kind]) for lane in shown):
            entry = SubElement(found, "span")
            size = {"class": "chart sample", "viewBox": "0 0 30 10", "aria-hidden": "true"}
            sample = SubElement(entry, "svg", size)
            SubElement(sample, "rect", {**_fill(kind), **place(0, 0, 30, 10)})
            sample.tail = words


# --- a lane -------------------------------------------------------------------------------------


def _draw_lane(
    svg: Element, lane: Lane, top: float, stretches: Sequence[_Stretch], x: Axis
) -> None:
    words_at(svg, clean(lane.name), LEFT, top - 5, "start").set("class", "name")
    for begin_s, until_s in lane.dead:
        left, right = (x_at(min(at, x.end), x) for at in (begin_s, until_s))
        SubElement(svg, "rect", {**_fill(DEAD), **place(left, top, right - left, _LANE)})
    below = [0.0] * len(stretches)
    for kind in KINDS:
        shares = [_share(lane, kind, each) for each in stretches]
        above = [min(1.0, a + b) for a, b in zip(below, shares, strict=True)]
        if any(shares):
            path = _band(below, above, stretches, top, x)
            SubElement(svg, "path", {**_fill(kind), "d": path})
        below = above
    for y in (top, top + _LANE):
        straight(svg, "grid", LEFT, y, WIDTH - RIGHT, y)
    _draw_marks(svg, [mark for mark in lane.marks if mark.at <= x.end], top, x)


def _band(
    below: Sequence[float],
    above: Sequence[float],
    stretches: Sequence[_Stretch],
    top: float,
    x: Axis,
) -> str:
    """A path around what lies between two levels: along the upper one, and back along the lower."""
    edges = [(x_at(each.begin_s, x), x_at(each.end_s, x)) for each in stretches]
    there = [(at, level) for ends, level in zip(edges, above, strict=True) for at in ends]
    back = [(at, level) for ends, level in zip(edges, below, strict=True) for at in ends]
    points = [
        (round(at, 1), round(top + _LANE * (1 - level), 1)) for at, level in (*there, *back[::-1])
    ]
    first, *others = corners(points)
    before, steps = first, []
    for point in others:  # each goes on level or upright from the one before
        steps.append(f"V{point[1]:g}" if point[0] == before[0] else f"H{point[0]:g}")
        before = point
    return f"M{first[0]:g},{first[1]:g}{''.join(steps)}Z"


def _draw_marks(svg: Element, marks: Sequence[Mark], top: float, x: Axis) -> None:
    """Words beside a line where they have room before the next one."""
    places = [x_at(mark.at, x) for mark in marks]
    ends = [*places, float(WIDTH)][1:]
    for mark, at, end in zip(marks, places, ends, strict=True):
        straight(svg, "mark", at, top - 2, at, top + _LANE + 2)
        if at + text_width(mark.words) + _LABEL_ROOM <= end:
            words_at(svg, clean(mark.words), at + 4, top + 17, "start").set("class", "label")


# --- around the lanes ---------------------------------------------------------------------------


def _draw_ticks(svg: Element, tops: Sequence[float], x: Axis) -> None:
    """Behind every lane, and in words below the last one."""
    places = [x_at(tick, x) for tick in x.ticks()]
    for top in tops:
        path = "".join(f"M{at:.1f},{top:g}v{_LANE}" for at in places)
        SubElement(svg, "path", {"class": "grid", "d": path})
    for tick, at in zip(x.ticks(), places, strict=True):
        words_at(svg, x.text(tick), at, tops[-1] + _LANE + 19, "middle")


def _draw_pools(svg: Element, lanes: Lanes, tops: Sequence[float]) -> None:
    """Each pool's title, and the axis of its first lane."""
    above = iter(tops)
    for pool in lanes.pools:
        first, *_ = (next(above) for _ in pool.lanes)
        words_at(svg, clean(pool.title), 4, first - _NAME_ROW - 6, "start").set("class", "pool")
        words_at(svg, "100%", LEFT - 6, first + 5, "end")
        words_at(svg, "0%", LEFT - 6, first + _LANE + 4, "end")


def _tops(lanes: Lanes) -> Iterator[float]:
    """Where each lane begins, from above."""
    top = 0.0
    for pool in lanes.pools:
        top += _POOL_ROW
        for _ in pool.lanes:
            top += _NAME_ROW
            yield top
            top += _LANE + _GAP


def _at_rest(svg: Element, words: str, x: float, y: float, anchor: str) -> None:
    """What is not there while a reading is."""
    words_at(svg, words, x, y, anchor).set("class", "at-rest")


def _fill(kind: str) -> dict[str, str]:
    return {"class": f"area area-{kind}", "fill": f"url(#kind-{kind})"}


def _middle() -> float:
    return (LEFT + WIDTH - RIGHT) / 2


# --- what hovering shows ------------------------------------------------------------------------


def _draw_readings(svg: Element, lanes: Lanes, tops: Sequence[float], x: Axis) -> None:
    """Every lane's values over its right end, and the time in place of the axis' title."""
    num_bins = math.ceil(x.end / lanes.width_s / _MAX_READINGS)
    bottom = tops[-1] + _LANE
    for each in _stretches(lanes, x.end, num_bins):
        group = SubElement(svg, "g", {"class": "reading"})
        left, right = x_at(each.begin_s, x), x_at(each.end_s, x)
        SubElement(group, "rect", {"class": "band", **place(left, 0, right - left, bottom)})
        straight(group, "cross", (left + right) / 2, _POOL_ROW, (left + right) / 2, bottom)
        time = f"{seconds_text(each.begin_s)} to {seconds_text(each.end_s)}"
        words_at(group, time, _middle(), bottom + _FOOT - 5, "middle").set("class", "head")
        text = words_at(group, "", 0, 0, "end")
        text.set("class", "values")
        for lane, top in zip(lanes.all(), tops, strict=True):
            at = {"x": f"{WIDTH - RIGHT:g}", "y": f"{top - 5:g}"}
            SubElement(text, "tspan", at).text = clean(_of_a_stretch(lane, each))


def _of_a_stretch(lane: Lane, stretch: _Stretch) -> str:
    shares = {kind: _share(lane, kind, stretch) for kind in KINDS}
    happened = [mark.words for mark in lane.marks if stretch.begin_s <= mark.at < stretch.end_s]
    is_dead = any(a <= stretch.begin_s and stretch.end_s <= b for a, b in lane.dead)
    return ", ".join([DEAD if is_dead else _shares_text(shares), *happened])


def _of_the_whole(lane: Lane, span_s: float) -> str:
    busy_s = {kind: sum(lane.busy_s[kind]) for kind in KINDS}
    return _shares_text({kind: each / (span_s or 1.0) for kind, each in busy_s.items()})


def _shares_text(shares: Mapping[str, float]) -> str:
    """`98.6% busy: 40.8% prefill, 57.8% decode`."""
    parts = [f"{share_text(share)} {kind}" for kind, share in shares.items() if share]
    if len(parts) < 2:
        return parts[0] if parts else "idle"
    return f"{share_text(sum(shares.values()))} busy: {', '.join(parts)}"


def _width_text(width_s: float) -> str:
    return f"{width_s:g} s" if width_s > 0.1 else seconds_text(width_s)


def _in_words(lanes: Lanes) -> str:
    """What the shares of the whole say, for who does not see them."""
    of_each = (
        f"{lane.name} {_of_the_whole(lane, lanes.span_s)}"
        + "".join(f", {mark.words} at {seconds_text(mark.at)}" for mark in lane.marks)
        for lane in lanes.all()
    )
    return clean("; ".join(of_each))


# --- bins ---------------------------------------------------------------------------------------


def _stretches(lanes: Lanes, end_s: float, num_bins: int) -> Iterator[_Stretch]:
    """From the beginning to the end; the last one is what there is left."""
    for first in range(0, math.ceil(end_s / lanes.width_s), num_bins):
        last = first + num_bins
        yield _Stretch(first, last, first * lanes.width_s, min(last * lanes.width_s, end_s))


def _share(lane: Lane, kind: str, stretch: _Stretch) -> float:
    """Bins that are not there are idle."""
    busy_s = sum(lane.busy_s[kind][stretch.first : stretch.last])
    return busy_s / (stretch.end_s - stretch.begin_s)
