"""The definitions of the field, and what failures do to them."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.traffic.outcomes import (
    Backstage,
    Distribution,
    Goals,
    Goodput,
    Outcome,
    quantile,
    summarize,
)

DONE = Outcome(1.0, 1.5, 3.5, num_prompt=100, num_output=5, cached=60, route="split")
SLOW = Outcome(2.0, 6.0, 6.0, num_prompt=300, num_output=1, route="short")
FAILED = Outcome(3.0, 3.5, 4.0, num_prompt=50, num_output=2, error="status 429")


def test_times_of_one_request() -> None:
    assert (DONE.ttft_s, DONE.tpot_s, DONE.jct_s) == (0.5, 0.5, 2.5)


def test_one_token_has_no_time_per_token() -> None:
    assert SLOW.tpot_s is None
    assert SLOW.ttft_s == 4.0


def test_no_token_has_no_first() -> None:
    outcome = Outcome(1.0, None, 2.0, 10, 0, error="timeout")
    assert (outcome.ttft_s, outcome.tpot_s) == (None, None)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    ours, theirs = quantile(sorted(values), share), numpy.quantile(values, share)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_a_run_counts_finished_requests_and_reports_failed_ones() -> None:
    summary = summarize([DONE, SLOW, FAILED])
    assert (summary.num_requests, summary.num_finished, summary.num_failed) == (3, 2, 1)
    assert summary.errors == {"status 429": 1}
    assert summary.routes == {"split": 1, "short": 1}
    assert summary.span_s == 5.0
    assert summary.ttft == Distribution.of([0.5, 4.0])
    assert summary.tpot == Distribution(0.5, 0.5, 0.5, 0.5)
    assert summary.jct is not None
    assert summary.jct.mean == 3.25
    assert summary.request_rate == 2 / 5
    assert summary.output_rate == 8 / 5
    assert (summary.num_prompt, summary.cached_share) == (400, 60 / 400)
    assert summary.goodput is None


@pytest.mark.parametrize(
    ("goals", "num_met"),
    [
        (Goals(), 2),
        (Goals(ttft_s=0.5), 1),
        (Goals(ttft_s=0.49), 0),
        (Goals(tpot_s=0.5), 2),  # SLOW has none that could be too long
        (Goals(tpot_s=0.4), 1),
        (Goals(ttft_s=5.0, jct_s=3.0), 1),
    ],
)
def test_goodput_is_of_all_that_arrived(goals: Goals, num_met: int) -> None:
    summary = summarize([DONE, SLOW, FAILED], goals)
    num_output = sum(each.num_output for each in (DONE, SLOW) if goals.met_by(each))
    assert summary.goodput == Goodput(num_met / 3, num_met / 5, num_output)


def test_what_is_offered_is_counted_until_the_last_arrival_not_until_the_drain() -> None:
    outcomes = [Outcome(at_s, at_s + 1.0, at_s + 30.0, 10, 5) for at_s in (2.0, 3.0, 4.0)]
    summary = summarize(outcomes)
    assert summary.offered_rate == 3 / 2
    assert summary.request_rate < 0.1
    assert summarize(outcomes[:1]).offered_rate is None


def test_the_price_of_good_tokens_is_that_of_the_whole_cluster() -> None:
    """Two requests of ten tokens in 36 s at $100 an hour; one of them met its goal."""
    outcomes = [Outcome(0.0, 1.0, 36.0, 10, 10), Outcome(0.0, 9.0, 36.0, 10, 10)]
    summary = summarize(outcomes, Goals(ttft_s=2.0), Backstage(usd_per_hour=100.0))
    assert summary.usd_per_million_output == pytest.approx(1.0 / 20 * 1e6)
    assert summary.usd_per_million_good == pytest.approx(1.0 / 10 * 1e6)
    none_met = summarize(outcomes, Goals(ttft_s=0.5), Backstage(usd_per_hour=100.0))
    assert none_met.usd_per_million_good is None
    assert summarize(outcomes).usd_per_million_output is None, "nobody knows the price"


def test_a_run_of_nothing() -> None:
    summary = summarize([], Goals(ttft_s=1.0))
    assert (summary.num_requests, summary.span_s, summary.ttft) == (0, 0.0, None)
    assert summary.goodput == Goodput(0.0, 0.0, 0)


def test_the_most_frequent_error_comes_first() -> None:
    errors = ["timeout", "status 429", "status 429"]
    outcomes = [Outcome(0.0, None, 1.0, 1, 0, error=error) for error in errors]
    assert list(summarize(outcomes).errors.items()) == [("status 429", 2), ("timeout", 1)]
