"""Who wins, and by how much: the figures that decide, one verdict for each.

Owns which figures those are, and how differences are worded. Input are figures as report.py compares
them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mserve.runtime.traffic.report import DISTRIBUTIONS, Compared

# (group, name) of the figures that a comparison is decided by.
_DECIDING = (
    ("goodput", "share"),
    (DISTRIBUTIONS["ttft"], "mean"),
    (DISTRIBUTIONS["ttft"], "p99"),
    (DISTRIBUTIONS["tpot"], "mean"),
    (DISTRIBUTIONS["tpot"], "p99"),
    (DISTRIBUTIONS["jct"], "mean"),
    (DISTRIBUTIONS["jct"], "p99"),
    ("throughput", "output tokens"),
    ("requests", "failed"),
)
_SHARES = {("goodput", "share"), ("requests", "failed")}
_NO_WINNER = "no winner: seeds disagree"
_MAX_NAMED = 3  # winners; more of them are counted
_ALIKE = "all alike"


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one figure. `best` holds the winners' indexes; without one, `winner` says why."""

    figure: Compared
    best: frozenset[int]
    winner: str
    text: str  # the winner's figure
    by: str  # how much better that is than the next one's


def verdicts(names: Sequence[str], figures: Sequence[Compared]) -> list[Verdict]:
    """On every deciding figure; failures only where there are some."""
    found = {(figure.group, figure.name): figure for figure in figures}
    known = [found[key] for key in _DECIDING if key in found]
    return [_verdict(names, each) for each in known if each.group != "requests" or any(each.values)]


def _verdict(names: Sequence[str], figure: Compared) -> Verdict:
    if not figure.best:
        reason = _ALIKE if len(set(figure.texts)) == 1 else _NO_WINNER
        return Verdict(figure, figure.best, reason, "", "")
    best = min(figure.best)
    winner = ", ".join(names[index] for index in sorted(figure.best))
    if len(figure.best) > _MAX_NAMED:
        winner = f"{len(figure.best)} of {len(names)}, all alike"
    return Verdict(figure, figure.best, winner, figure.texts[best], _difference(names, figure))


def _difference(names: Sequence[str], figure: Compared) -> str:
    """From the best run to the best of those that do not win."""
    others = {
        index: value
        for index, value in enumerate(figure.values)
        if value is not None and index not in figure.best
    }
    if not others:
        return ""
    sign = figure.metric.sign
    after = max(others, key=lambda index: others[index] * sign)
    best = max(value * sign for value in figure.values if value is not None) * sign
    return f"{_words(figure, best, others[after])} {names[after]} ({figure.texts[after]})"


def _words(figure: Compared, best: float, after: float) -> str:
    """`48% less than`, `2.5 times as much as`; shares differ by points."""
    comparative = "more" if best > after else "less"
    if (figure.group, figure.name) in _SHARES:
        return f"{abs(best - after) * 100:.1f} points {comparative} than"
    if after <= 0:
        return f"{comparative} than"
    if best >= 2 * after:
        return f"{best / after:.1f} times as much as"
    return f"{_percent(abs(best / after - 1))} {comparative} than"


def _percent(share: float) -> str:
    return f"{share:.0%}" if 0.0995 <= share <= 0.9905 else f"{share:.1%}"


def in_a_sentence(names: Sequence[str], found: Iterable[Verdict]) -> str:
    """Which runs win which groups of figures, all of a group's; who wins the first one comes first."""
    wins = _wins(found)
    if not wins:
        return "No run is best in all figures of anything."
    parts = [f"{names[run]} has the best {enumerated(groups)}" for run, groups in wins.items()]
    return "; ".join(parts) + "."


def _wins(found: Iterable[Verdict]) -> Mapping[int, list[str]]:
    """Groups by who alone wins them."""
    by_group: dict[str, frozenset[int]] = {}
    for verdict in found:
        group = verdict.figure.group
        by_group[group] = by_group.get(group, verdict.best) & verdict.best
    wins: dict[int, list[str]] = {}
    for group, best in by_group.items():
        if len(best) == 1 and group != "requests":
            wins.setdefault(min(best), []).append(group)
    return wins


def enumerated(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
