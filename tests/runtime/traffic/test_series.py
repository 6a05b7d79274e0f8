"""Curves of a run: how requests are counted in them."""

from itertools import pairwise

import pytest

from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.series import (
    arrival_rate,
    coarse_width_s,
    distribution,
    edges,
    fine_width_s,
    running,
    steps,
)


def arrivals(num: int, every_s: float) -> list[Outcome]:
    return [Outcome(n * every_s, n * every_s + 0.1, n * every_s + 0.2, 10, 5) for n in range(num)]


def test_a_distribution_goes_from_the_least_to_the_greatest() -> None:
    points = distribution([1.0, 2.0, 3.0])
    assert (points[0], points[100], points[-1]) == ((1.0, 0.0), (2.0, 0.5), (3.0, 1.0))
    assert distribution([]) == []


def test_requests_under_way_are_counted_on_average() -> None:
    whole = Outcome(0.0, 1.0, 10.0, 1, 2)
    half = Outcome(5.0, 6.0, 10.0, 1, 2)
    short = Outcome(2.01, 2.02, 2.06, 1, 2)  # half of a bin of 0.1 s
    means = running([whole, half, short], 10.0, 0.1)
    assert means == pytest.approx([1.0] * 20 + [1.5] + [1.0] * 29 + [2.0] * 50)


def test_the_last_bin_is_as_long_as_the_run_still_is() -> None:
    assert running([Outcome(0.0, 1.0, 2.6, 1, 2)], 2.6, 1.0) == pytest.approx([1.0, 1.0, 1.0])
    assert running([Outcome(0.0, 1.0, 2.4, 1, 2)], 2.4, 1.0) == pytest.approx([1.0, 1.0])
    rates = arrival_rate(arrivals(6, 0.4), 2.4, 1.0)  # at 0, 0.4, 0.8, 1.2, 1.6 and 2
    assert rates == pytest.approx([3.0, 3 / 1.4])
    assert edges(2, 2.4, 1.0) == [0.0, 1.0, 2.4]


def test_the_area_is_what_requests_took() -> None:
    outcomes = [Outcome(n * 0.31, n * 0.31, n * 0.37 + 0.2, 1, 2) for n in range(40)]
    end_s = max(outcome.ended_s for outcome in outcomes)
    for width_s in (0.1, 0.3, 1.0, 4.0, 100.0):
        means = running(outcomes, end_s, width_s)
        bins = pairwise(edges(len(means), end_s, width_s))
        area = sum(mean * (b - a) for mean, (a, b) in zip(means, bins, strict=True))
        assert area == pytest.approx(sum(outcome.jct_s for outcome in outcomes))
        assert min(means) >= 0


def test_arrivals_are_counted_per_second() -> None:
    rates = arrival_rate(arrivals(50, 0.5), 25.0, 0.5)
    assert rates == pytest.approx([2.0] * 50)


def test_a_request_that_ends_with_the_run_is_counted_to_its_end() -> None:
    assert running([Outcome(0.0, 1.0, 3.0, 1, 2)], 3.0, 1.0) == pytest.approx([1.0, 1.0, 1.0])
    assert arrival_rate([Outcome(3.0, 3.0, 3.0, 1, 2)], 3.0, 1.0) == pytest.approx([0.0, 0.0, 1.0])


def test_bins_are_round_and_few_requests_have_few() -> None:
    assert fine_width_s(55.9) == pytest.approx(1.0)
    assert coarse_width_s(12.3, 10) == pytest.approx(2.0)
    assert coarse_width_s(101.0, 20_000) == pytest.approx(2.0)


def test_steps_are_level_over_their_bins() -> None:
    assert steps([1.0, 3.0], 1.2, 0.5) == [(0.0, 1.0), (0.5, 1.0), (0.5, 3.0), (1.2, 3.0)]
