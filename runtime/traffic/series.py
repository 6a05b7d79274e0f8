"""What charts of runs draw: distributions of a time, and load over the time of a run, as points.

Owns how requests are counted in them. Knows outcomes and numbers, neither lines nor pages.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from mserve.runtime.traffic.charts import round_step
from mserve.runtime.traffic.outcomes import Outcome, quantile
from mserve.runtime.traffic.shapes import Point

Series = Callable[[Sequence[Outcome], float, float], list[float]]

_NUM_POINTS = 200
_MAX_BINS = 100
_MIN_BINS = 10
_REQUESTS_PER_BIN = 4


def distribution(ordered: Sequence[float]) -> list[Point]:
    """(value, share of values up to it) for some shares from 0 to 1."""
    if not ordered:
        return []
    shares = [index / _NUM_POINTS for index in range(_NUM_POINTS + 1)]
    return [(quantile(ordered, share), share) for share in shares]


def fine_width_s(end_s: float) -> float:
    """Of bins for what is averaged over time: round, up to a hundred of them."""
    return round_step(end_s / _MAX_BINS)


def coarse_width_s(end_s: float, num_requests: int) -> float:
    """Of bins for what is counted: round, and wide enough to have some requests each."""
    num_bins = min(_MAX_BINS, max(_MIN_BINS, num_requests // _REQUESTS_PER_BIN))
    return round_step(end_s / num_bins)


def running(outcomes: Sequence[Outcome], end_s: float, width_s: float) -> list[float]:
    """How many requests are under way, on average over each bin."""
    num_bins = _num_bins(end_s, width_s)
    busy = [0.0] * (num_bins + 1)  # of requests that begin or end in a bin
    change = [0] * (num_bins + 1)  # how many more requests go on all through a bin
    for outcome in outcomes:
        first = min(num_bins, int(outcome.arrival_s / width_s))
        last = min(num_bins, int(outcome.ended_s / width_s))
        busy[last] += outcome.ended_s / width_s - last
        busy[first] -= outcome.arrival_s / width_s - first
        change[first] += 1
        change[last] -= 1
    whole = accumulate(change)
    means = [count + part for count, part in zip(whole, busy, strict=True)]
    means[num_bins - 1] += means.pop()  # what the last bin has beyond its width
    return _per_width(means, end_s, width_s)


def arrival_rate(outcomes: Sequence[Outcome], end_s: float, width_s: float) -> list[float]:
    """Arrivals per second in each bin."""
    num_bins = _num_bins(end_s, width_s)
    counts = [0.0] * num_bins
    for outcome in outcomes:
        counts[min(num_bins - 1, int(outcome.arrival_s / width_s))] += 1 / width_s
    return _per_width(counts, end_s, width_s)


def _num_bins(end_s: float, width_s: float) -> int:
    """The last one ends with the run: it is from half as long to half as long again as the others."""
    return max(1, round(end_s / width_s))


def _per_width(means: list[float], end_s: float, width_s: float) -> list[float]:
    """The last bin's mean is over what there is of it."""
    rest_s = end_s - (len(means) - 1) * width_s
    means[-1] *= width_s / rest_s
    return means


def edges(num_bins: int, end_s: float, width_s: float) -> list[float]:
    """Where bins begin and end, from 0 on: one more than there are bins."""
    return [*(index * width_s for index in range(num_bins)), end_s]


def steps(values: Sequence[float], end_s: float, width_s: float) -> list[Point]:
    """Level over each bin."""
    bins = pairwise(edges(len(values), end_s, width_s))
    return [point for (a, b), y in zip(bins, values, strict=True) for point in ((a, y), (b, y))]
