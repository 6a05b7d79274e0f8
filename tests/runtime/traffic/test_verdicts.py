"""Who wins, by how much, and what is said of it."""

import pytest

from mserve.runtime.simulator.comparison import compared_over_seeds
from mserve.runtime.traffic.outcomes import Goals, Outcome, Summary, summarize
from mserve.runtime.traffic.report import compared
from mserve.runtime.traffic.verdicts import (
    ALIKE,
    UNSURE,
    Verdict,
    enumerated,
    in_a_sentence,
    verdicts,
)

TTFT, TPOT = "time to first token, mean", "time per output token, mean"


def run(ttft_s: float, tpot_s: float = 0.1, num_failed: int = 0) -> list[Outcome]:
    finished = [
        Outcome(at, at + ttft_s, at + ttft_s + 5 * tpot_s, 100, 6) for at in (0.0, 1.0, 2.0, 3.0)
    ]
    return finished + [Outcome(3.0, None, 3.1, 100, 0, error="x") for _ in range(num_failed)]


def found(*runs: list[Outcome], goals: Goals | None = None) -> dict[str, Verdict]:
    figures = compared([summarize(each, goals) for each in runs], goals)
    names = "abcdef"[: len(runs)]
    return {
        f"{verdict.figure.group}, {verdict.figure.name}": verdict
        for verdict in verdicts(names, figures)
    }


def test_less_time_is_better_and_by_how_much_is_said_of_the_next() -> None:
    verdict = found(run(0.4), run(0.2), run(0.8))[TTFT]
    assert (verdict.winner, verdict.text) == ("b", "200 ms")
    assert verdict.by == "50% less than a (400 ms)"


def test_small_differences_have_a_digit_more() -> None:
    assert found(run(0.4), run(0.39))[TTFT].by == "2.5% less than a (400 ms)"


def test_shares_differ_by_points() -> None:
    verdict = found(run(0.1), run(0.1, num_failed=1), goals=Goals(ttft_s=0.2))["goodput, share"]
    assert verdict.by == "20.0 points more than b (80.0%)"


def test_twice_as_much_is_said_as_such() -> None:
    slow = [Outcome(0.0, 1.0, 40.0, 100, 10)]
    fast = [Outcome(0.0, 1.0, 10.0, 100, 10)]
    verdict = found(slow, fast)["throughput, output tokens"]
    assert verdict.by == "4.0 times as much as a (0.25/s)"


def test_several_may_win_and_all_may_be_alike() -> None:
    verdict = found(run(0.2), run(0.2), run(0.4))[TTFT]
    assert (verdict.best, verdict.winner) == (None, f"a, b: {ALIKE}")
    assert verdict.by == "50% less than c (400 ms)"
    assert found(run(0.2), run(0.4))[TPOT].winner == ALIKE
    assert found(*[run(0.2)] * 4, run(0.4))[TTFT].winner == f"4 of 5: {ALIKE}"


def test_nobody_is_best_by_a_difference_that_does_not_count() -> None:
    assert found(run(0.2), run(0.2038))[TTFT].winner == ALIKE
    assert found(run(0.2), run(0.2045))[TTFT].winner == "a"
    assert in_a_sentence("ab", found(run(0.2), run(0.203)).values()).startswith("No run")


def test_of_goodput_a_point_counts_and_of_failures_a_tenth() -> None:
    goals = Goals(ttft_s=0.15)
    for num_slow, winner in ((1, ALIKE), (3, "a")):
        slow = [*run(0.1) * 50, *run(0.2)[:num_slow]]
        assert found(run(0.1) * 50, slow, goals=goals)["goodput, share"].winner == winner
    failing = [*run(0.1) * 50, *run(0.1, num_failed=1)]
    assert found(run(0.1) * 51, failing)["requests, failed"].winner == "a"


def test_seeds_that_disagree_leave_no_winner() -> None:
    (figure,) = [
        each
        for each in compared_over_seeds({"a": summaries(0.2, 0.4), "b": summaries(0.5, 0.3)})
        if f"{each.group}, {each.name}" == TTFT
    ]
    (verdict,) = verdicts("ab", [figure])
    assert (verdict.best, verdict.winner) == (None, UNSURE)


def summaries(*ttfts_s: float) -> list[Summary]:
    return [summarize(run(ttft_s)) for ttft_s in ttfts_s]


def test_failures_count_only_where_there_are_some() -> None:
    assert "requests, failed" not in found(run(0.2), run(0.4))
    verdict = found(run(0.2, num_failed=1), run(0.4))["requests, failed"]
    assert (verdict.winner, verdict.by) == ("b", "20.0 points less than a (20.0%)")


def test_the_sentence_names_who_wins_all_of_a_group() -> None:
    runs = (run(0.4, 0.05), run(0.2, 0.1))
    said = in_a_sentence(("a", "b"), found(*runs).values())
    assert said.startswith("b has the best time to first token")
    assert "a has the best time per output token" in said
    alike = found(run(0.2), run(0.2))
    assert in_a_sentence(("a", "b"), alike.values()).startswith("No run")


def test_who_wins_a_part_of_a_group_wins_it_not() -> None:
    quick, slow = (
        [Outcome(0.0, ttft_s, 2.0, 100, 1) for ttft_s in (*[first_s] * 8, 1.0, 1.0)]
        for first_s in (0.1, 0.2)
    )
    parts = found(quick, slow)
    assert parts[TTFT].winner == "a"
    assert parts["time to first token, p99"].winner == ALIKE
    assert in_a_sentence(("a", "b"), parts.values()).startswith("No run")


@pytest.mark.parametrize(
    ("words", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_in_words(words: list[str], text: str) -> None:
    assert enumerated(words) == text
