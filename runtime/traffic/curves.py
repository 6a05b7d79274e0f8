"""The charts of a run's page: distributions of times, load over time, figures over a swept param.

Owns their axes, what hovering over them shows, and which goal or event is marked where. Knows no page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from mserve.runtime.traffic.charts import Axis, Line, Mark, Reading, line_chart, time_axis
from mserve.runtime.traffic.markup import clean
from mserve.runtime.traffic.outcomes import Goals, Outcome, quantile
from mserve.runtime.traffic.pagestyle import EVERY
from mserve.runtime.traffic.report import (
    DISTRIBUTIONS,
    STATISTICS,
    Compared,
    Form,
    seconds_text,
    usd_text,
)
from mserve.runtime.traffic.series import Series, distribution, edges, steps

Runs = Mapping[str, Sequence[Outcome]]

_NUM_READINGS = 50  # over the whole of an axis
_MAX_READ = 12  # lines whose values have room in a reading
_NUM_SWEPT = 5  # swept values that an axis names, beside the first one
_FARTHEST_GOAL = 2.5  # a goal beyond this many times the slowest values would squeeze them
_LoadCurve = tuple[str, int | str, list[float]]  # name, style, a value for each bin


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution to draw, with its goal."""

    name: str
    value: Callable[[Outcome], float | None]
    goal_s: float | None


def latencies(goals: Goals | None) -> dict[str, Latency]:
    """By the group of figures that each belongs to."""
    given = goals or Goals()
    found = (
        Latency(DISTRIBUTIONS["ttft"], lambda outcome: outcome.ttft_s, given.ttft_s),
        Latency(DISTRIBUTIONS["tpot"], lambda outcome: outcome.tpot_s, given.tpot_s),
        Latency(DISTRIBUTIONS["jct"], lambda outcome: outcome.jct_s, given.jct_s),
        Latency(DISTRIBUTIONS["max_gap"], lambda outcome: outcome.max_gap_s or None, None),
    )
    return {latency.name: latency for latency in found}


# --- distributions ------------------------------------------------------------------------------


def latency_chart(latency: Latency, runs: Runs) -> Element | None:
    """A cumulative distribution per run, up to the slowest run's 99th percentile. None without any
    value."""
    ordered = {
        name: sorted(
            value
            for outcome in outcomes
            if not outcome.error and (value := latency.value(outcome)) is not None
        )
        for name, outcomes in runs.items()
    }
    ends = [quantile(values, 0.99) for values in ordered.values() if values]
    if not ends:
        return None
    lines = [
        Line(clean(name), distribution(values), index)
        for index, (name, values) in enumerate(ordered.items())
    ]
    end_s = max(ends) * 1.02
    x = time_axis(f"{latency.name}; the slowest 1% are not shown", _to_goal(end_s, latency))
    y = _share_axis()
    marks = _goal_marks(latency)
    return line_chart(latency.name, lines, x, y, marks, _quantile_readings(ordered))


def _to_goal(end_s: float, latency: Latency) -> float:
    """Where an axis ends that shows the goal, too, unless that is far off."""
    goal_s = latency.goal_s or 0.0
    return goal_s * 1.05 if end_s < goal_s * 1.05 <= end_s * _FARTHEST_GOAL else end_s


def _goal_marks(latency: Latency) -> list[Mark]:
    goal_s = latency.goal_s
    return [] if goal_s is None else [Mark(goal_s, f"goal {seconds_text(goal_s)}")]


def _quantile_readings(ordered: Mapping[str, Sequence[float]]) -> list[Reading]:
    if len(ordered) > _MAX_READ:
        return []
    shares = [(index + 1) / _NUM_READINGS for index in range(_NUM_READINGS)]
    return [
        Reading(
            "y",
            share,
            f"{share:.0%} of requests within",
            [
                (f"{seconds_text(quantile(values, share))}  {clean(name)}", index)
                for index, (name, values) in enumerate(ordered.items())
                if values
            ],
        )
        for share in shares
    ]


def _share_axis() -> Axis:
    return Axis("share of requests", 1.0, lambda share: f"{share:.0%}")


# --- load ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadChart:
    """A quantity over the time of a run, in bins of `width_s`."""

    title: str
    unit: str
    series: Series
    text: Form
    width_s: float
    end_s: float


def load_chart(
    load: LoadChart, runs: Runs, events: Sequence[Mark]
) -> tuple[Element, list[tuple[str, int | str]]] | None:
    """And the names of its lines with their styles: one for all runs where they are alike. None where
    nothing is."""
    curves = _load_curves(load, runs)
    greatest = max(max(values) for _, _, values in curves)
    if greatest <= 0:
        return None
    lines = [
        Line(name, steps(values, load.end_s, load.width_s), style) for name, style, values in curves
    ]
    title = f"time since the run began; means over {load.width_s:g} s"
    x = time_axis(title, load.end_s)
    y = Axis(load.unit, greatest * 1.05, lambda value: f"{value:,.4g}")
    chart = line_chart(load.title, lines, x, y, events, _load_readings(load, curves))
    return chart, [(name, style) for name, style, _ in curves]


def _load_curves(load: LoadChart, runs: Runs) -> list[_LoadCurve]:
    curves: list[_LoadCurve] = [
        (clean(name), style, load.series(outcomes, load.end_s, load.width_s))
        for style, (name, outcomes) in enumerate(runs.items())
    ]
    first = curves[0][2]
    if len(curves) > 1 and all(values == first for _, _, values in curves):
        return [("every run", EVERY, first)]
    return curves


def _load_readings(load: LoadChart, curves: Sequence[_LoadCurve]) -> list[Reading]:
    if len(curves) > _MAX_READ:
        return []
    num_bins = len(curves[0][2])
    bins = list(pairwise(edges(num_bins, load.end_s, load.width_s)))
    stride = max(1, round(num_bins / _NUM_READINGS))
    return [
        Reading(
            "x",
            sum(bins[index]) / 2,
            " to ".join(map(seconds_text, bins[index])),
            [(f"{load.text(values[index])}  {name}", style) for name, style, values in curves],
        )
        for index in range(0, num_bins, stride)
    ]


# --- sweeps -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Swept:
    """A param, and how its values are spelled; runs are in their order, evenly apart. `axis` is the title
    of a chart's, if not the param's name."""

    param: str
    values: Sequence[str]
    axis: str = ""


@dataclass(frozen=True, slots=True)
class SweptLine:
    """A figure over a sweep: a value and a text for each of its values. Nothing is drawn for None."""

    name: str
    style: int | str
    values: Sequence[float | None]
    texts: Sequence[str]


def swept_lines(
    title: str, group: str, lines: Sequence[SweptLine], swept: Swept, level: float | None = None
) -> Element | None:
    """All of them on one scale, that of their group, with a level line of every run if there is one. None
    where every value is unknown, or zero."""
    greatest = max((value or 0.0 for each in lines for value in each.values), default=0.0)
    if not greatest:
        return None
    drawn = [
        Line(
            clean(each.name),
            [(n, value) for n, value in enumerate(each.values) if value is not None],
            each.style,
            has_dots=True,
        )
        for each in lines
    ]
    last = len(swept.values) - 1
    if level is not None:
        drawn.insert(0, Line("level", [(0, level), (last, level)], EVERY))
    num_ticks = min(last, _NUM_SWEPT)
    places = [round(last * index / num_ticks) for index in range(num_ticks + 1)]
    x = Axis(swept.axis or swept.param, last, lambda at: swept.values[round(at)], places)
    readings = _sweep_readings(swept, lines)
    return line_chart(title, drawn, x, _value_axis(group, greatest), readings=readings)


def sweep_chart(
    group: str, figures: Sequence[Compared], swept: Swept
) -> tuple[Element, list[tuple[str, str]]] | None:
    """A line for each figure of a group, and their names with their styles. None where every figure
    is unknown of some run, or zero."""
    known = [each for each in figures if None not in each.values]
    styles = _statistic_styles(known)
    lines = [
        SweptLine(each.name, style, each.values, each.texts)
        for each, style in zip(known, styles, strict=True)
    ]
    chart = swept_lines(f"{group} by {swept.param}", group, lines, swept)
    if chart is None:
        return None
    return chart, [(each.name, style) for each, style in zip(known, styles, strict=True)]


def _statistic_styles(figures: Sequence[Compared]) -> list[str]:
    """Statistics have a style of their own; other figures take those, in their order."""
    return [
        each.name if each.name in STATISTICS else STATISTICS[index]
        for index, each in enumerate(figures)
    ]


def _sweep_readings(swept: Swept, lines: Sequence[SweptLine]) -> list[Reading]:
    return [
        Reading(
            "x",
            at,
            f"{swept.param} = {value}",
            [(f"{each.texts[at]}  {clean(each.name)}", each.style) for each in lines],
        )
        for at, value in enumerate(swept.values)
    ]


def _value_axis(group: str, greatest: float) -> Axis:
    if group in DISTRIBUTIONS.values():
        return time_axis(group, greatest * 1.05)
    if group == "goodput":
        return _share_axis()
    if group == "price":
        return Axis("$ per million output tokens", greatest * 1.05, usd_text)
    return Axis("output tokens per second", greatest * 1.05, lambda value: f"{value:,.4g}")
