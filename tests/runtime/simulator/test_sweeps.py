"""Over a sweep: a block for each figure, and the load up to which goodput is kept."""

from collections.abc import Sequence

from mserve.runtime.simulator.sweeps import (
    SweptRuns,
    sweep_json,
    sweep_table,
    taken_json,
    taken_text,
)
from mserve.runtime.traffic.outcomes import Goals, Outcome, Summary, summarize

GOALS = Goals(ttft_s=0.5, tpot_s=None, jct_s=None)
RATES = ["20", "40", "60"]


def run(share_met: float, goals: Goals | None = GOALS) -> Summary:
    ttfts_s = [0.4 if index < share_met * 100 else 0.6 for index in range(100)]
    return summarize([Outcome(0.0, ttft_s, 1.0, 10, 5) for ttft_s in ttfts_s], goals)


def swept(**shares: Sequence[Sequence[float]]) -> SweptRuns:
    """By strategy, by rate, by seed."""
    runs = {name: [[run(s) for s in seeds] for seeds in each] for name, each in shares.items()}
    return SweptRuns("rate", RATES, runs, GOALS)


def test_load_is_taken_up_to_the_last_rate_before_goodput_falls_short() -> None:
    found = swept(
        some=[[1.0], [0.9], [0.89]], none=[[0.5], [0.4], [1.0]], every=[[1.0], [1.0], [0.95]]
    )
    assert taken_json(found) == {"some": "40", "none": None, "every": "60"}
    lines = taken_text(found).splitlines()
    assert lines[0] == "highest swept rate that keeps 90% goodput (ttft 500 ms)"
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [
        "40/s; 89.0% at 60/s",
        "none; 50.0% at 20/s",
        "60/s, the highest of this sweep",
    ]


def test_a_rate_that_fails_between_others_ends_what_is_taken() -> None:
    assert taken_json(swept(a=[[1.0], [0.2], [1.0]])) == {"a": "20"}


def paced(num: int, apart_s: float) -> Summary:
    arrivals_s = [index * apart_s for index in range(num)]
    return summarize([Outcome(at, at + 0.1, at + 1.0, 10, 5) for at in arrivals_s], GOALS)


def test_requests_that_come_too_briefly_for_queues_are_pointed_out() -> None:
    """Jobs take a second: of 9.9 s of them less is believed than of 10.1."""
    brief = SweptRuns("rate", ["10"], {"a": [[paced(100, 0.1)]], "b": [[paced(102, 0.1)]]}, GOALS)
    assert "At 10/s the 100 requests came within 9.90 s" in taken_text(brief)
    assert "At 10/s" in str(sweep_json(brief)["doubt"])
    swapped = SweptRuns("rate", ["10"], {name: brief.runs[name] for name in "ba"}, GOALS)
    assert "the 100 requests" in taken_text(swapped)
    enough = SweptRuns("rate", ["10"], {"a": [[paced(102, 0.1)]]}, GOALS)
    assert "came within" not in taken_text(enough)
    assert sweep_json(enough)["doubt"] is None
    assert "came within" not in taken_text(swept(a=[[0.1]] * 3)), "where no load is taken"


def test_goodput_is_the_mean_of_the_seeds() -> None:
    assert taken_json(swept(a=[[1.0, 0.82], [1.0, 0.7], [0.1, 0.1]])) == {"a": "20"}


def test_without_goals_nobody_says_what_load_is_taken() -> None:
    found = SweptRuns("rate", RATES, {"a": [[run(1.0, None)]] * 3})
    assert taken_json(found) == {}
    assert "--slo" in taken_text(found)
    assert "goodput, share" not in sweep_table(found, ["1 worker"])


def test_the_table_has_a_block_for_each_figure_with_stars() -> None:
    table = sweep_table(swept(a=[[1.0], [0.9], [0.5]], b=[[1.0], [0.5], [0.9]]), ["2 GPUs"] * 2)
    lines = [line.split() for line in table.splitlines()]
    assert lines[:3] == [["a", "b"], ["2", "GPUs", "2", "GPUs"], ["goodput,", "share"]]
    assert lines[3:6] == [
        ["rate", "20", "100.0%", "100.0%"],
        ["rate", "40", "90.0%*", "50.0%"],
        ["rate", "60", "50.0%", "90.0%*"],
    ]
    assert "requests, failed" not in table, "where nothing fails"


def test_json_has_every_figure_at_every_value() -> None:
    found = sweep_json(swept(a=[[1.0], [0.9], [0.5]]))
    points = found["points"]
    assert isinstance(points, list)
    assert [point["value"] for point in points] == RATES
    share = next(row for row in points[2]["metrics"] if row["metric"] == "goodput, share")
    assert share["estimates"]["a"]["mean"] == 0.5
    assert found["highest_rate"] == {"a": "40"}
