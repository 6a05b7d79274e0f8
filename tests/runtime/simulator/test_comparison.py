"""Side by side over seeds: means, their margins, and a winner only where every seed says so."""

from collections.abc import Sequence

import pytest

from mserve.runtime.simulator.comparison import (
    Estimate,
    compared_over_seeds,
    comparison,
    comparison_json,
    comparison_table,
)
from mserve.runtime.traffic.outcomes import Outcome, Summary, summarize

TTFT = "time to first token, mean"


def run(ttft_s: float) -> Summary:
    return summarize([Outcome(0.0, ttft_s, ttft_s + 1.0, 10, 5)])


def runs(**ttfts_s: Sequence[float]) -> dict[str, list[Summary]]:
    return {name: [run(ttft_s) for ttft_s in each] for name, each in ttfts_s.items()}


def best(name: str, found: dict[str, list[Summary]]) -> int | None:
    return next(row.best for _, row in comparison(found) if row.name == name)


def test_the_margin_is_students() -> None:
    estimate = Estimate.of([1.0, 2.0, 3.0])
    assert estimate.mean == 2.0
    assert estimate.margin == pytest.approx(4.30 * 1.0 / 3**0.5)
    assert Estimate.of([1.0]) == Estimate(1.0, 0.0)


def test_who_is_best_with_every_seed_wins() -> None:
    assert best(TTFT, runs(a=[0.3, 0.4], b=[0.2, 0.1])) == 1


def test_nobody_wins_where_seeds_differ() -> None:
    assert best(TTFT, runs(a=[0.3, 0.1], b=[0.2, 0.2])) is None


def test_nobody_wins_where_all_are_alike() -> None:
    assert best(TTFT, runs(a=[0.2], b=[0.2])) is None


def test_a_variant_whose_requests_all_failed_has_no_times() -> None:
    failed = summarize([Outcome(0.0, None, 1.0, 10, 0, error="unavailable_error")])
    found = comparison_json({"a": [run(0.2)], "b": [failed]})
    rows = found["metrics"]
    assert isinstance(rows, list)
    row = next(row for row in rows if row["metric"] == TTFT)
    assert row["estimates"]["b"] is None
    assert row["estimates"]["a"]["mean"] == pytest.approx(0.2)


def test_a_page_has_the_same_means_and_winners() -> None:
    found = runs(a=[0.3, 0.5], b=[1.5, 1.6])
    row = next(each for each in compared_over_seeds(found) if f"{each.group}, {each.name}" == TTFT)
    assert row.values == pytest.approx((0.4, 1.55))
    assert row.texts == ("400 ms", "1,550 ms"), "one unit"
    assert row.margins == ("±1,271 ms", "±636 ms")
    assert row.best == {0}


def test_a_page_shows_all_that_are_best_with_every_seed() -> None:
    found = runs(a=[0.3, 0.4], b=[0.3, 0.4], c=[0.5, 0.6], d=[0.3, 0.6])
    assert best(TTFT, found) is None
    row = next(each for each in compared_over_seeds(found) if f"{each.group}, {each.name}" == TTFT)
    assert row.best == {0, 1}


def test_a_single_seed_has_no_margin() -> None:
    rows = compared_over_seeds(runs(a=[0.3], b=[0.2]))
    assert all(row.margins == ("", "") for row in rows)
    assert "±" not in comparison_table(runs(a=[0.3], b=[0.2]))
