"""Which split of a number of workers over its pools is a strategy's best one, and what the others came to.

Judged by one seed, over all points of a sweep. Knows summaries of runs, not how they came about.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mserve.runtime.simulator.sizes import ClusterSize
from mserve.runtime.traffic.outcomes import Summary
from mserve.runtime.traffic.report import BEST, seconds_text, share_text


@dataclass(frozen=True, slots=True)
class Tried:
    """A split, with means over the points of a sweep: the share of requests that met the goals (None
    without goals), that failed, and seconds from arrival to end (infinite where nothing finished)."""

    size: ClusterSize
    goodput: float | None
    failed: float
    jct_s: float

    @property
    def rank(self) -> tuple[float, float]:
        """Less is better: goodput decides, or failures where there are no goals; then time."""
        first = self.failed if self.goodput is None else -self.goodput
        return first, self.jct_s

    @property
    def text(self) -> str:
        """What `rank` compares."""
        seconds = seconds_text(self.jct_s) if math.isfinite(self.jct_s) else "nothing finished"
        if self.goodput is not None:
            return f"{share_text(self.goodput)} {seconds}"
        return f"{seconds}, {share_text(self.failed)} failed" if self.failed else seconds


def tried(size: ClusterSize, summaries: Sequence[Summary]) -> Tried:
    """`summaries` has one for each point of a sweep, at least one."""
    goodputs = [each.goodput.share for each in summaries if each.goodput is not None]
    return Tried(
        size,
        fmean(goodputs) if goodputs else None,
        fmean(each.failed_share for each in summaries),
        fmean(math.inf if each.jct is None else each.jct.mean for each in summaries),
    )


def best_of(each: Sequence[Tried]) -> int:
    """Its index; of equals the first."""
    return min(range(len(each)), key=lambda index: each[index].rank)


def splits_lines(
    by_strategy: Mapping[str, Sequence[Tried]], seed: int, *, is_swept: bool
) -> list[str]:
    """What decided, then each strategy with what all of its splits came to; none where no strategy has
    more than one."""
    shown = {name: each for name, each in by_strategy.items() if len(each) > 1}
    if not shown:
        return []
    has_goals = any(each[0].goodput is not None for each in shown.values())
    figure = f"{'goodput, then ' if has_goals else ''}mean job completion time"
    over = " over the sweep" if is_swept else ""
    head = f"splits over pools, chosen ({BEST}) by {figure}{over}, with seed {seed} alone"
    return [head, *(f"  {name}: {_of_one(each)}" for name, each in shown.items())]


def _of_one(each: Sequence[Tried]) -> str:
    best = best_of(each)
    words = [
        f"{one.size.split} {one.text}{BEST if index == best else ''}"
        for index, one in enumerate(each)
    ]
    return "; ".join(words)


def splits_json(by_strategy: Mapping[str, Sequence[Tried]], seed: int) -> Mapping[str, object]:
    """Of strategies with more than one. Times are seconds, None where nothing finished."""
    return {
        name: {
            "seed": seed,
            "chosen": each[best_of(each)].size.split,
            "tried": [_tried_json(one) for one in each],
        }
        for name, each in by_strategy.items()
        if len(each) > 1
    }


def _tried_json(one: Tried) -> Mapping[str, object]:
    return {
        "workers": dict(one.size.workers),
        "goodput": one.goodput,
        "failed": one.failed,
        "jct_mean_s": one.jct_s if math.isfinite(one.jct_s) else None,
    }
