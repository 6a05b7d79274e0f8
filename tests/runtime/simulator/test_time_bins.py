"""Bins lose no time, however long it becomes and in whichever order intervals come."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.simulator.time_bins import FIRST_WIDTH_S, NUM_BINS, TimeBins

times = st.floats(0, 1e5)
intervals = st.lists(
    st.tuples(st.sampled_from("ab"), times, times).map(lambda each: (each[0], *sorted(each[1:])))
)
FIRST_END_S = NUM_BINS * FIRST_WIDTH_S


def overlap_s(begin_s: float, end_s: float, left_s: float, right_s: float) -> float:
    return max(0.0, min(end_s, right_s) - max(begin_s, left_s))


@given(intervals)
def test_every_bin_has_what_intervals_cover_of_it(given: list[tuple[str, float, float]]) -> None:
    bins = TimeBins()
    for interval in given:
        bins.add(*interval)
    for key in "ab":
        own = [(begin_s, end_s) for name, begin_s, end_s in given if name == key]
        covered_s = bins.covered_s(key)
        assert len(covered_s) == NUM_BINS
        assert math.fsum(covered_s) == pytest.approx(sum(b - a for a, b in own), abs=1e-6)
        for index, found_s in enumerate(covered_s):
            edges = (index * bins.width_s, (index + 1) * bins.width_s)
            expected_s = sum(overlap_s(*each, *edges) for each in own)
            assert found_s == pytest.approx(expected_s, abs=1e-6)


def test_bins_widen_only_when_the_time_outgrows_them() -> None:
    bins = TimeBins()
    bins.add("a", 0.0, FIRST_END_S)
    assert bins.width_s == FIRST_WIDTH_S
    assert bins.covered_s("a") == [FIRST_WIDTH_S] * NUM_BINS
    bins.add("b", FIRST_END_S, FIRST_END_S * 1.5)
    assert bins.width_s == 2 * FIRST_WIDTH_S
    assert bins.covered_s("a") == [bins.width_s] * (NUM_BINS // 2) + [0.0] * (NUM_BINS // 2)
    quarter = NUM_BINS // 4
    assert bins.covered_s("b") == [0.0] * 2 * quarter + [bins.width_s] * quarter + [0.0] * quarter
    assert bins.end_s == FIRST_END_S * 1.5


def test_a_long_time_fills_more_than_half_of_the_bins() -> None:
    bins = TimeBins()
    for second in range(1000):
        bins.add("a", second, second + 0.25)
    assert NUM_BINS / 2 < bins.end_s / bins.width_s <= NUM_BINS
    assert sum(bins.covered_s("a")) == 250.0
    assert bins.covered_s("nothing") == [0.0] * NUM_BINS


def test_an_interval_without_length_at_the_very_end() -> None:
    bins = TimeBins()
    bins.add("a", FIRST_END_S, FIRST_END_S)
    assert sum(bins.covered_s("a")) == 0.0
