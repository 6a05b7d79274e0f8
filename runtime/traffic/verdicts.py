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
    ("price", "per million output tokens"),
    ("price", "per million good tokens"),
    ("requests", "failed"),
)
_SHARES = {("goodput", "share"), ("requests", "failed")}
ALIKE = "no difference that counts"
UNSURE = "not told apart by these seeds"
_MAX_NAMED = 3  # who are as good as each other; more of them are counted


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one figure. `best` is the winner's index; without one, `winner` says why."""

    figure: Compared
    best: int | None
    winner: str
    text: str  # the winner's figure, or of those who lead the best one
    by: str  # how much better that is than the next one's who is clearly behind


def verdicts(names: Sequence[str], figures: Sequence[Compared]) -> list[Verdict]:
    """On every deciding figure; failures only where there are some."""
    found = {(figure.group, figure.name): figure for figure in figures}
    known = [found[key] for key in _DECIDING if key in found]
    return [_verdict(names, each) for each in known if each.group != "requests" or any(each.values)]


def _verdict(names: Sequence[str], figure: Compared) -> Verdict:
    reason = UNSURE if figure.metric.leaders(figure.values) != figure.leaders else ALIKE
    if not figure.leaders:
        return Verdict(figure, None, reason, "", "")
    text, by = figure.texts[_best(figure)], _difference(names, figure)
    if figure.winner is not None:
        return Verdict(figure, figure.winner, names[figure.winner], text, by)
    who = ", ".join(names[index] for index in sorted(figure.leaders))
    if len(figure.leaders) > _MAX_NAMED:
        who = f"{len(figure.leaders)} of {len(names)}"
    return Verdict(figure, None, f"{who}: {reason}", text, by)


def _best(figure: Compared) -> int:
    """The index of the best value, however little it is ahead."""
    sign = figure.metric.sign
    return max(figure.leaders, key=lambda index: (figure.values[index] or 0.0) * sign)


def _difference(names: Sequence[str], figure: Compared) -> str:
    """From the best run to the best of those that are clearly behind it."""
    others = {
        index: value
        for index, value in enumerate(figure.values)
        if value is not None and index not in figure.leaders
    }
    if not others:
        return ""
    sign = figure.metric.sign
    after = max(others, key=lambda index: others[index] * sign)
    best = figure.values[_best(figure)] or 0.0
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
        return "No run is clearly best in all figures of anything."
    parts = [f"{names[run]} has the best {enumerated(groups)}" for run, groups in wins.items()]
    return "; ".join(parts) + "."


def _wins(found: Iterable[Verdict]) -> Mapping[int, list[str]]:
    """Groups by who wins every figure of them."""
    by_group: dict[str, set[int | None]] = {}
    for verdict in found:
        by_group.setdefault(verdict.figure.group, set()).add(verdict.best)
    wins: dict[int, list[str]] = {}
    for group, winners in by_group.items():
        winner = winners.pop()
        if winner is not None and not winners and group != "requests":
            wins.setdefault(winner, []).append(group)
    return wins


def enumerated(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
