"""Strategies side by side over a sweep: a block of rows for each figure, and how much load each one takes.

Knows summaries of runs: of each strategy one for every value and seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mserve.runtime.simulator.comparison import certainty, compared_over_seeds, comparison_json
from mserve.runtime.traffic.curves import Swept
from mserve.runtime.traffic.outcomes import Goals, Summary
from mserve.runtime.traffic.report import (
    BEST,
    DISTRIBUTIONS,
    Compared,
    aligned,
    goals_text,
    seconds_text,
    share_text,
)

MIN_JOBS = 10  # one after the other: for so long requests must come, or queues hardly show
KEPT = 0.9  # the share of requests with their goals that a load is taken with
_GOODPUT = ("goodput", "share")
_SHOWN = (  # (group, name) of figures that tables and pages show over a sweep
    _GOODPUT,
    *(
        (DISTRIBUTIONS[field], name)
        for field in ("ttft", "tpot", "jct")
        for name in ("mean", "p99")
    ),
    ("throughput", "output tokens"),
    ("requests", "failed"),
)


@dataclass(frozen=True, slots=True)
class SweptRuns:
    """`runs` has of every strategy its summaries: by value, and then by seed. `axis` is as in `Swept`."""

    param: str
    values: Sequence[str]
    runs: Mapping[str, Sequence[Sequence[Summary]]]
    goals: Goals | None = None
    axis: str = ""

    @property
    def num_seeds(self) -> int:
        return max(len(seeds) for values in self.runs.values() for seeds in values)

    @property
    def names(self) -> list[str]:
        return list(self.runs)

    def swept(self) -> Swept:
        return Swept(self.param, self.values, self.axis)

    def at(self, index: int) -> dict[str, Sequence[Summary]]:
        return {name: each[index] for name, each in self.runs.items()}

    def figures(self) -> dict[tuple[str, str], list[Compared | None]]:
        """The shown ones that any run has, each by value: None where no strategy has it."""
        by_value = [
            {
                (figure.group, figure.name): figure
                for figure in compared_over_seeds(self.at(index), self.goals)
            }
            for index in range(len(self.values))
        ]
        found = {key: [figures.get(key) for figures in by_value] for key in _SHOWN}
        return {key: each for key, each in found.items() if _is_shown(key, each)}


def _is_shown(key: tuple[str, str], each: Sequence[Compared | None]) -> bool:
    """Failures only where there are some."""
    if key[0] == "requests":
        return any(any(figure.values) for figure in each if figure is not None)
    return any(figure is not None for figure in each)


def sweep_table(swept: SweptRuns, under_names: Sequence[str]) -> str:
    """A column for each strategy, with something under its name; the star is for who is clearly best."""
    nothing = [""] * len(swept.runs)
    rows = [("", *(f"{name} " for name in swept.runs)), ("", *(f"{each} " for each in under_names))]
    for (group, name), by_value in swept.figures().items():
        rows.append((f"{group}, {name}", *nothing))
        for value, figure in zip(swept.values, by_value, strict=True):
            cells = nothing if figure is None else _cells(figure)
            rows.append((f"  {swept.param} {value}", *cells))
    return f"{aligned(rows)}\n\n{BEST} {certainty(swept.num_seeds)}"


def _cells(figure: Compared) -> list[str]:
    margins = figure.margins or ("",) * len(figure.texts)
    return [
        " ".join(filter(None, pair)) + (BEST if index == figure.winner else " ")
        for index, pair in enumerate(zip(figure.texts, margins, strict=True))
    ]


# --- how much load ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """By one strategy: how many of the ascending rates in a row it keeps `KEPT` at, and the goodput at
    the next one, if there is one (None: nothing is known of it)."""

    name: str
    num_kept: int
    then: float | None


def taken(swept: SweptRuns) -> list[Taken]:
    """Of every strategy, where there are goals; means over seeds."""
    by_value = swept.figures().get(_GOODPUT, [])
    found = []
    for index, name in enumerate(swept.runs if by_value else ()):
        shares = [None if figure is None else figure.values[index] for figure in by_value]
        num_kept = next(
            (at for at, share in enumerate(shares) if share is None or share < KEPT), len(shares)
        )
        found.append(Taken(name, num_kept, shares[num_kept] if num_kept < len(shares) else None))
    return found


def taken_rows(swept: SweptRuns) -> list[tuple[str, str]]:
    """(strategy, words)."""
    return [(each.name, _words(swept, each)) for each in taken(swept)]


def taken_head(swept: SweptRuns) -> str:
    assert swept.goals is not None, "without goals there is no goodput"
    return f"highest swept rate that keeps {KEPT:.0%} goodput ({goals_text(swept.goals)})"


def taken_text(swept: SweptRuns) -> str:
    """Several lines without a trailing line break; without goals a hint."""
    rows = taken_rows(swept)
    if not rows:
        return f"With --slo it says up to which rate each strategy keeps {KEPT:.0%} goodput."
    lines = aligned([(f"  {name}", words) for name, words in rows], left=2)
    return "\n".join(filter(None, [taken_head(swept), lines, too_brief(swept)]))


def too_brief(swept: SweptRuns) -> str:
    """A sentence if requests came so briefly, at a rate that is said to be taken, that queues had no time
    to build up; else empty."""
    kept = [(each.num_kept - 1, each.name) for each in taken(swept) if each.num_kept]
    for at, name in kept:
        for summary in swept.runs[name][at]:
            span_s = _arriving_s(summary)
            if summary.jct is not None and span_s < MIN_JOBS * summary.jct.mean:
                return (
                    f"At {swept.values[at]}/s the {summary.num_requests:,} requests came within"
                    f" {seconds_text(span_s)}, too briefly for queues to build up: less may be taken"
                    " for long. Give more requests, as with num=... of a generator."
                )
    return ""


def _arriving_s(summary: Summary) -> float:
    """From the first request to the last; infinite where nobody knows."""
    rate = summary.offered_rate
    return math.inf if rate is None else summary.num_requests / rate


def _words(swept: SweptRuns, each: Taken) -> str:
    if each.num_kept == len(swept.values):
        return f"{swept.values[-1]}/s, the highest of this sweep"
    then = "unknown" if each.then is None else share_text(each.then)
    after = f"{then} at {swept.values[each.num_kept]}/s"
    return f"{swept.values[each.num_kept - 1]}/s; {after}" if each.num_kept else f"none; {after}"


def taken_json(swept: SweptRuns) -> Mapping[str, str | None]:
    """The rate of each strategy, as it is spelled."""
    return {
        each.name: swept.values[each.num_kept - 1] if each.num_kept else None
        for each in taken(swept)
    }


def sweep_json(swept: SweptRuns) -> Mapping[str, object]:
    points = [
        {"value": value, **comparison_json(swept.at(index), swept.goals)}
        for index, value in enumerate(swept.values)
    ]
    taken_up_to = {"highest_rate": taken_json(swept), "doubt": too_brief(swept) or None}
    return {"param": swept.param, "points": points, **taken_up_to}
