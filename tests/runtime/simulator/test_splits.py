"""Of several splits the best by goodput wins, then the fastest; without goals, who fails least."""

from mserve.runtime.simulator.sizes import ClusterSize
from mserve.runtime.simulator.splits import (
    Tried,
    best_of,
    splits_json,
    splits_lines,
    tried,
)
from mserve.runtime.traffic.outcomes import Goals, Outcome, Summary, summarize

GOALS = Goals(ttft_s=0.5, tpot_s=None, jct_s=None)


def size(prefill: int, decode: int) -> ClusterSize:
    return ClusterSize({"prefill": prefill, "decode": decode}, prefill + decode)


def run(ttft_s: float, jct_s: float, goals: Goals | None = GOALS) -> Summary:
    return summarize([Outcome(0.0, ttft_s, jct_s, 10, 5)], goals)


FAILED = summarize([Outcome(0.0, None, 1.0, 10, 0, error="unavailable_error")])


def test_goodput_goes_before_time_and_time_decides_among_equals() -> None:
    late = tried(size(1, 3), [run(0.9, 1.0)])
    slow, fast = tried(size(2, 2), [run(0.4, 3.0)]), tried(size(3, 1), [run(0.4, 2.0)])
    assert best_of([late, slow, fast]) == 2
    assert best_of([late, slow]) == 1


def test_without_goals_failures_go_before_time() -> None:
    failing = tried(size(1, 1), [FAILED])
    slow, fast = (tried(size(1, 1), [run(0.1, jct_s, None)]) for jct_s in (3.0, 2.0))
    assert best_of([failing, slow, fast]) == 2
    assert failing.text == "nothing finished, 100.0% failed"


def test_a_sweep_is_judged_by_the_mean_over_its_points() -> None:
    found = tried(size(1, 1), [run(0.4, 1.0), run(0.9, 2.0)])
    assert (found.goodput, found.jct_s) == (0.5, 1.5)


def test_what_each_split_came_to_in_lines_and_json() -> None:
    both = [Tried(size(1, 2), 0.5, 0.0, 1.0), Tried(size(2, 1), 1.0, 0.0, 2.0)]
    one = [Tried(ClusterSize({"workers": 3}, 3), 1.0, 0.0, 1.0)]
    head, *lines = splits_lines({"balanced": both, "data_parallel": one}, 7, is_swept=False)
    assert lines == ["  balanced: 1+2 50.0% 1.00 s; 2+1 100.0% 2.00 s*"]
    assert "by goodput, then mean job completion time" in head
    assert "with seed 7 alone" in head
    assert "over the sweep" in splits_lines({"balanced": both}, 0, is_swept=True)[0]
    assert splits_lines({"data_parallel": one}, 0, is_swept=False) == []
    assert splits_json({"balanced": both, "data_parallel": one}, 7) == {
        "balanced": {
            "seed": 7,
            "chosen": "2+1",
            "tried": [
                {"workers": {"prefill": 1, "decode": 2}, "goodput": 0.5, "failed": 0.0}
                | {"jct_mean_s": 1.0},
                {"workers": {"prefill": 2, "decode": 1}, "goodput": 1.0, "failed": 0.0}
                | {"jct_mean_s": 2.0},
            ],
        }
    }
