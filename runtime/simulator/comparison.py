"""Several simulations side by side, over several seeds: means, how sure they are, and who wins by them.

Every variant sees the same traffic, seed by seed, so that differences are theirs. Knows results only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mserve.runtime.traffic.outcomes import Goals, Summary
from mserve.runtime.traffic.report import BEST, Compared, Metric, aligned, metrics
from mserve.runtime.traffic.winners import RULE, only

# Student's t for 95% of both sides, by degrees of freedom; beyond them as for a normal distribution.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_NORMAL = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over seeds, and by how much it may be wrong (95%); 0 for a single seed."""

    mean: float
    margin: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        count = len(values)
        if count < 2:
            return cls(fmean(values), 0.0)
        factor = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _NORMAL
        return cls(fmean(values), factor * stdev(values) / math.sqrt(count))


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: an estimate for each variant (None where a seed has no value), and the indexes of
    those that no other is clearly better than."""

    name: str
    estimates: tuple[Estimate | None, ...]
    leaders: frozenset[int]

    @property
    def best(self) -> int | None:
        """The only one that is."""
        return only(self.leaders)


def comparison(
    runs: Mapping[str, Sequence[Summary]], goals: Goals | None = None
) -> list[tuple[Metric, Row]]:
    """`runs` has each variant's summaries, in the order of the seeds."""
    rows = []
    for metric in metrics(goals):
        values = [[metric.value(summary) for summary in each] for each in runs.values()]
        known = [[v for v in each if v is not None] for each in values]
        whole = [len(k) == len(v) for k, v in zip(known, values, strict=True)]
        if any(whole):
            estimates = tuple(
                Estimate.of(k) if ok else None for k, ok in zip(known, whole, strict=True)
            )
            name = f"{metric.group}, {metric.name}"
            rows.append((metric, Row(name, estimates, _leaders(metric, known, estimates))))
    return rows


def _leaders(
    metric: Metric, values: Sequence[Sequence[float]], estimates: Sequence[Estimate | None]
) -> frozenset[int]:
    """By differences seed by seed: that one seed's traffic is heavier than another's is no doubt about
    who is better."""

    def doubt(one: int, other: int) -> float:
        pairs = zip(values[one], values[other], strict=True)
        return Estimate.of([a - b for a, b in pairs]).margin

    return metric.leaders([None if each is None else each.mean for each in estimates], doubt)


def compared_over_seeds(
    runs: Mapping[str, Sequence[Summary]], goals: Goals | None = None
) -> list[Compared]:
    """The same as figures of a page. Their values are the means."""
    rows = []
    for metric, row in comparison(runs, goals):
        means = tuple(None if each is None else each.mean for each in row.estimates)
        texts, margins = zip(*_texts(metric, row.estimates), strict=True)
        rows.append(Compared(metric, means, texts, row.leaders, margins))
    return rows


def comparison_table(
    runs: Mapping[str, Sequence[Summary]],
    goals: Goals | None = None,
    under_names: Sequence[str] = (),
) -> str:
    """A column for each variant, with something under its name; the star is for who is clearly best, and
    below stands what that means."""
    lines = [("", *(f"{name} " for name in runs))]
    if under_names:
        lines.append(("", *(f"{words} " for words in under_names)))
    for metric, row in comparison(runs, goals):
        cells = [" ".join(filter(None, pair)) for pair in _texts(metric, row.estimates)]
        marks = [BEST if index == row.best else " " for index in range(len(cells))]
        lines.append((row.name, *(cell + mark for cell, mark in zip(cells, marks, strict=True))))
    num_seeds = max(map(len, runs.values()), default=0)
    return f"{aligned(lines)}\n\n{BEST} {certainty(num_seeds)}"


def certainty(num_seeds: int) -> str:
    """Who is called best over so many seeds, and what that is worth."""
    if num_seeds == 1:
        return (
            f"{RULE}. This is one seed: who is a few percent ahead may be behind with another one"
            " (--seeds 3 says how sure it is), or in another part of a trace."
        )
    return f"{RULE}, and sure to 95% by the differences with each of {num_seeds} seeds."


def _texts(metric: Metric, estimates: Sequence[Estimate | None]) -> Iterator[tuple[str, str]]:
    """Means and their margins, all in one form; a margin of zero is left out."""
    text = metric.form([each.mean for each in estimates if each is not None])
    for each in estimates:
        if each is None:
            yield "-", ""
        else:
            yield text(each.mean), f"±{text(each.margin)}" if each.margin else ""


def comparison_json(
    runs: Mapping[str, Sequence[Summary]], goals: Goals | None = None
) -> Mapping[str, object]:
    """A margin is null where there is one seed: nobody knows it then."""
    names = list(runs)
    num_seeds = max(map(len, runs.values()), default=0)
    rows = [
        {
            "metric": row.name,
            "estimates": {
                name: _estimate_json(each, num_seeds)
                for name, each in zip(names, row.estimates, strict=True)
            },
            "best": None if row.best is None else names[row.best],
        }
        for _, row in comparison(runs, goals)
    ]
    return {"num_seeds": num_seeds, "metrics": rows}


def _estimate_json(estimate: Estimate | None, num_seeds: int) -> Mapping[str, float | None] | None:
    if estimate is None:
        return None
    return {"mean": estimate.mean, "margin": estimate.margin if num_seeds > 1 else None}
