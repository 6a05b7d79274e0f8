"""Runs as one self-contained page: figures side by side, latency distributions, load over time.

Nothing is loaded from anywhere; it follows the reader's colour scheme. Input as in report.py. Owns what
the page shows and how it looks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from xml.etree.ElementTree import Element, SubElement, tostring

from mserve.runtime.traffic.charts import Axis, Line, Point, line_chart
from mserve.runtime.traffic.outcomes import Goals, Outcome, quantile, summarize
from mserve.runtime.traffic.report import (
    DISTRIBUTIONS,
    Compared,
    compared,
    goals_text,
    run_facts,
)

_NUM_POINTS = 200
_NUM_BINS = 100
_NUM_STYLES = 8


@dataclass(frozen=True, slots=True)
class _Latency:
    """A distribution to draw, with its goal."""

    name: str
    value: Callable[[Outcome], float | None]
    goal_s: float | None


def write_page(
    title: str,
    runs: Mapping[str, Sequence[Outcome]],
    goals: Goals | None = None,
    notes: Sequence[str] = (),
) -> str:
    """HTML. `notes` are sentences for under the title."""
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    viewport = "width=device-width, initial-scale=1"
    SubElement(head, "meta", {"name": "viewport", "content": viewport})
    SubElement(head, "title").text = _clean(title)
    SubElement(head, "style").text = STYLE
    main = SubElement(SubElement(html, "body"), "main")
    SubElement(main, "h1").text = _clean(title)
    for note in notes:
        SubElement(main, "p").text = _clean(note)
    _legend(main, runs)
    _figures(main, runs, goals)
    _load(main, runs)
    _facts(main, runs, goals)
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def _clean(text: str) -> str:
    """Without characters that no page can contain; the serialiser escapes the others."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


# --- figures ------------------------------------------------------------------------------------


def _figures(main: Element, runs: Mapping[str, Sequence[Outcome]], goals: Goals | None) -> None:
    """A card per group of figures: a table of the runs, and their distributions where it has one."""
    summaries = [summarize(outcomes, goals) for outcomes in runs.values()]
    charts = {latency.name: latency for latency in _latencies(goals or Goals())}
    cards = SubElement(main, "div", {"class": "cards"})
    for group, rows in groupby(compared(summaries, goals), key=lambda row: row.group):
        title = group
        if group == "goodput" and goals is not None:
            title = f"goodput: requests with {goals_text(goals)}"
        card = _card(cards, title)
        _table_of_runs(card, list(runs), list(rows))
        if group in charts:
            _append(card, latency_chart(charts[group], runs))


def _table_of_runs(card: Element, runs: Sequence[str], columns: Sequence[Compared]) -> None:
    body = _table(card, ["", *(column.name for column in columns)])
    for index, name in enumerate(runs):
        row = SubElement(body, "tr")
        SubElement(row, "th", {"scope": "row"}).text = _clean(name)
        for column in columns:
            cell = SubElement(row, "td", {"class": "best"} if index in column.best else {})
            cell.text = column.texts[index]


def _facts(main: Element, runs: Mapping[str, Sequence[Outcome]], goals: Goals | None) -> None:
    """What is left to say of each run, in words."""
    SubElement(main, "h2").text = "Requests"
    for name, outcomes in runs.items():
        SubElement(main, "h3").text = _clean(name)
        body = _table(main, [])
        for what, words in run_facts(summarize(outcomes, goals)):
            row = SubElement(body, "tr")
            SubElement(row, "th", {"scope": "row"}).text = what
            SubElement(row, "td", {"class": "words"}).text = _clean(words)


def _table(parent: Element, heads: Sequence[str]) -> Element:
    table = SubElement(SubElement(parent, "div", {"class": "scroll"}), "table")
    if heads:
        row = SubElement(SubElement(table, "thead"), "tr")
        for head in heads:
            SubElement(row, "th", {"scope": "col"}).text = _clean(head)
    return SubElement(table, "tbody")


# --- charts -------------------------------------------------------------------------------------


def _latencies(goals: Goals) -> Iterable[_Latency]:
    yield _Latency(DISTRIBUTIONS["ttft"], lambda outcome: outcome.ttft_s, goals.ttft_s)
    yield _Latency(DISTRIBUTIONS["tpot"], lambda outcome: outcome.tpot_s, goals.tpot_s)
    yield _Latency(DISTRIBUTIONS["jct"], lambda outcome: outcome.jct_s, goals.jct_s)


def _load(main: Element, runs: Mapping[str, Sequence[Outcome]]) -> None:
    SubElement(main, "h2").text = "Load"
    cards = SubElement(main, "div", {"class": "cards"})
    end_s = _end_s(runs)
    for title, series in (("requests under way", running), ("arrivals per second", arrival_rate)):
        _append(_card(cards, title), _load_chart(title, runs, end_s, series))


def _card(parent: Element, title: str) -> Element:
    card = SubElement(parent, "section")
    SubElement(card, "h3").text = title
    return card


def _append(parent: Element, chart: Element | None) -> None:
    if chart is not None:
        parent.append(chart)


def _legend(main: Element, runs: Iterable[str]) -> None:
    legend = SubElement(main, "p", {"class": "legend"})
    for index, name in enumerate(runs):
        entry = SubElement(legend, "span")
        svg = SubElement(entry, "svg", {"class": "chart sample", "viewBox": "0 0 32 10"})
        style = f"line line-{index % _NUM_STYLES}"
        SubElement(svg, "line", {"class": style, "x1": "0", "y1": "5", "x2": "32", "y2": "5"})
        svg.tail = " " + _clean(name)


def latency_chart(latency: _Latency, runs: Mapping[str, Sequence[Outcome]]) -> Element | None:
    """A cumulative distribution per run, up to the slowest run's 99th percentile."""
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
        Line(_clean(name), distribution(values), index % _NUM_STYLES)
        for index, (name, values) in enumerate(ordered.items())
    ]
    x = _time_axis("share of requests by time; the slowest 1% are not shown", max(ends) * 1.02)
    y = Axis("", 1.0, lambda share: f"{share:.0%}")
    return line_chart(latency.name, lines, x, y, latency.goal_s)


def distribution(ordered: Sequence[float]) -> list[Point]:
    """(value, share of values up to it) for some shares from 0 to 1."""
    if not ordered:
        return []
    shares = [index / _NUM_POINTS for index in range(_NUM_POINTS + 1)]
    return [(quantile(ordered, share), share) for share in shares]


def _time_axis(title: str, end_s: float) -> Axis:
    """All of its ticks in one unit."""
    end_s = max(end_s, 1e-6)
    if end_s < 1:
        return Axis(title, end_s, lambda value: f"{value * 1e3:.4g} ms")
    return Axis(title, end_s, lambda value: f"{value:,.4g} s")


Series = Callable[[Sequence[Outcome], float], list[Point]]


def _load_chart(
    title: str, runs: Mapping[str, Sequence[Outcome]], end_s: float, series: Series
) -> Element | None:
    lines = [
        Line(_clean(name), series(outcomes, end_s), index % _NUM_STYLES)
        for index, (name, outcomes) in enumerate(runs.items())
    ]
    greatest = max((value for line in lines for _, value in line.points), default=0.0)
    if not greatest or not end_s:
        return None
    x = _time_axis("time since the run began", end_s)
    return line_chart(title, lines, x, Axis("", greatest * 1.05, lambda value: f"{value:,.4g}"))


def running(outcomes: Sequence[Outcome], end_s: float) -> list[Point]:
    """How many requests are under way, on average over each of some bins."""
    if not end_s:
        return []
    width_s = end_s / _NUM_BINS
    busy = [0.0] * (_NUM_BINS + 1)  # of requests that begin or end in a bin
    change = [0] * (_NUM_BINS + 1)  # how many more requests go on all through a bin
    for outcome in outcomes:
        first = min(_NUM_BINS, int(outcome.arrival_s / width_s))
        last = min(_NUM_BINS, int(outcome.ended_s / width_s))
        busy[last] += outcome.ended_s / width_s - last
        busy[first] -= outcome.arrival_s / width_s - first
        change[first] += 1
        change[last] -= 1
    whole = accumulate(change)
    means = [count + part for count, part in zip(whole, busy, strict=True)]
    return _steps(means[:_NUM_BINS], width_s)


def arrival_rate(outcomes: Sequence[Outcome], end_s: float) -> list[Point]:
    """Arrivals per second in bins of equal width."""
    if not end_s:
        return []
    width_s = end_s / _NUM_BINS
    counts = [0] * _NUM_BINS
    for outcome in outcomes:
        counts[min(_NUM_BINS - 1, int(outcome.arrival_s / width_s))] += 1
    return _steps([count / width_s for count in counts], width_s)


def _steps(values: Sequence[float], width_s: float) -> list[Point]:
    edges = [(index * width_s, value) for index, value in enumerate(values)]
    return [point for x, y in edges for point in ((x, y), (x + width_s, y))]


def _end_s(runs: Mapping[str, Sequence[Outcome]]) -> float:
    return max((outcome.ended_s for each in runs.values() for outcome in each), default=0.0)


# --- look ---------------------------------------------------------------------------------------

# Okabe and Ito's colours, which people with any colour vision tell apart; dashes for print.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#946c00", "#3a3f44", "#56b4e9", "#7a5195")
_DARK = ("#5fb0e8", "#ff8a4c", "#2fd3a2", "#f0a6cd", "#e6b422", "#c9d1d9", "#8fd3ff", "#b58ad6")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2", "6 2 2 2 2 2")


def _colours(colours: Sequence[str]) -> str:
    return "".join(f".line-{index}{{stroke:{value}}}\n" for index, value in enumerate(colours))


STYLE = (
    """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#57606a;--rule:#d0d7de;
--best:#dff3e4;--goal:#b35900}
@media screen and (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--dim:#9aa4af;
--rule:#30363d;--best:#17492a;--goal:#f0a13c}}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",Helvetica,Arial,sans-serif}
main{max-width:1100px;margin:0 auto;padding:24px 20px 60px}
h1{margin:0;font-size:26px}
h2{margin:36px 0 8px;font-size:19px}
h3{margin:16px 0 2px;font-size:15px}
p{margin:4px 0 12px;color:var(--dim)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:0 0 16px;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 14px 4px 8px;border-bottom:1px solid var(--rule);
white-space:nowrap}
th{color:var(--dim);font-weight:600}
th[scope=row],td.words{text-align:left}
td.best{background:var(--best);font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));
gap:8px 28px}
.chart{display:block;width:100%;height:auto}
.chart.sample{display:inline-block;width:32px;height:10px}
.legend span{margin-right:20px;white-space:nowrap;color:var(--ink)}
.chart text{font-size:11px;fill:var(--dim)}
.chart .grid{stroke:var(--rule);stroke-width:1}
.chart .mark{stroke:var(--goal);stroke-width:1.5;stroke-dasharray:5 4}
.chart .line{fill:none;stroke-width:2;stroke-linejoin:round}
@media print{section,tr{break-inside:avoid}}
"""
    + _colours(_LIGHT)
    + "@media screen and (prefers-color-scheme:dark){\n"
    + _colours(_DARK)
    + "}\n"
    + "".join(f".line-{i}{{stroke-dasharray:{dash}}}\n" for i, dash in enumerate(_DASHES))
)
