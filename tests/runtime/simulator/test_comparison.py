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
from mserve.runtime.traffic.outcomes import Backstage, Outcome, Summary, summarize

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


def test_who_is_better_with_every_seed_wins_however_much_the_seeds_differ() -> None:
    assert best(TTFT, runs(a=[0.5, 0.51], b=[0.2, 0.21])) == 1
    assert best(TTFT, runs(a=[0.5, 0.9], b=[0.2, 0.59])) == 1, "± 2.5 s each, their difference 0.06"


def test_nobody_wins_where_seeds_disagree() -> None:
    assert best(TTFT, runs(a=[0.3, 0.1], b=[0.2, 0.2])) is None
    assert best(TTFT, runs(a=[0.5, 0.6], b=[0.2, 0.55])) is None, "0.18 ± 1.6 s"


def test_nobody_wins_by_less_than_counts_however_sure_it_is() -> None:
    assert best(TTFT, runs(a=[0.200, 0.200], b=[0.203, 0.203])) is None
    assert best(TTFT, runs(a=[0.200], b=[0.203])) is None


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
    found = runs(a=[0.3, 0.31], b=[1.5, 1.51])
    row = next(each for each in compared_over_seeds(found) if f"{each.group}, {each.name}" == TTFT)
    assert row.values == pytest.approx((0.305, 1.505))
    assert row.texts == ("305 ms", "1,505 ms"), "one unit"
    assert row.margins == ("±63.6 ms", "±63.6 ms")
    assert row.winner == 0


def test_who_lead_together_are_no_winners() -> None:
    found = runs(a=[0.3, 0.31], b=[0.3, 0.31], c=[0.5, 0.51], d=[0.3, 0.6])
    assert best(TTFT, found) is None
    row = next(each for each in compared_over_seeds(found) if f"{each.group}, {each.name}" == TTFT)
    assert row.leaders == {0, 1, 3}
    assert row.winner is None


def test_a_single_seed_has_no_margin_and_says_what_that_means() -> None:
    found = runs(a=[0.3], b=[0.2])
    assert all(row.margins == ("", "") for row in compared_over_seeds(found))
    table = comparison_table(found)
    assert "±" not in table
    assert "This is one seed" in table
    rows = comparison_json(found)["metrics"]
    assert isinstance(rows, list)
    assert {each["margin"] for row in rows for each in row["estimates"].values()} == {None}


def test_prices_and_interruptions_are_rows_where_they_are_known() -> None:
    outcomes = [Outcome(0.0, 1.0, 36.0, 10, 10)]
    backstage = Backstage(usd_per_hour=100.0, num_again=3, tokens_again=1234)
    table = comparison_table({"a": [summarize(outcomes, None, backstage)], "b": [run(0.2)]})
    for words, value in (
        ("price, of the cluster, per hour", "$100.00"),
        ("price, per million output tokens", "$100,000.00"),
        ("requests, planned anew", "3"),
        ("requests, tokens computed again", "1,234"),
    ):
        (line,) = [line for line in table.splitlines() if line.startswith(words)]
        assert line.removeprefix(words).split() == [value, "-"]
    assert "per million good" not in table
