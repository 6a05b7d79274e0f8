"""Tables and JSON: the figures that they show, and who wins."""

import json

import pytest

from mserve.runtime.traffic.outcomes import Goals, Outcome, summarize
from mserve.runtime.traffic.report import (
    aligned,
    compare_table,
    compared,
    goals_text,
    outcomes_json,
    run_json,
    run_table,
    seconds_form,
    seconds_text,
)

GOALS = Goals(ttft_s=0.3, tpot_s=0.1)


def run(ttft_s: float, num_failed: int = 0) -> list[Outcome]:
    finished = [
        Outcome(at, at + ttft_s, at + ttft_s + 0.5, 100, 6, cached=25, route="split")
        for at in (0.0, 1.0, 2.0, 3.0)
    ]
    failed = [Outcome(3.0, None, 3.1, 100, 0, error="status 429") for _ in range(num_failed)]
    return finished + failed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.000042, "0.04 ms"),
        (0.00427, "4.27 ms"),
        (0.057, "57.0 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (12.34, "12.3 s"),
        (4330, "4,330 s"),
    ],
)
def test_times_have_three_digits(value: float, text: str) -> None:
    assert seconds_text(value) == text


def test_one_run() -> None:
    assert run_table(run(0.25, num_failed=1), GOALS) == (
        "                         mean     p50     p90     p99\n"
        "time to first token    250 ms  250 ms  250 ms  250 ms\n"
        "time per output token  100 ms  100 ms  100 ms  100 ms\n"
        "job completion time    750 ms  750 ms  750 ms  750 ms\n"
        "\n"
        "requests    4 of 5 finished in 3.75 s\n"
        "failed      status 429: 1 (20.0%)\n"
        "throughput  1.07/s requests of 1.67/s offered, 6.40/s output tokens\n"
        "tokens      400 prompt, 25.0% of them cached; 24 output\n"
        "goodput     80.0%, 1.07/s requests of 1.67/s offered with ttft 300 ms, tpot 100 ms\n"
        "routes      split: 4"
    )


def test_a_run_in_which_nothing_finished() -> None:
    table = run_table(run(0.25, num_failed=2)[4:])
    assert table.splitlines()[0] == "requests  0 of 2 finished in 100 ms".replace("  0", "    0")


def test_a_comparison_marks_who_wins() -> None:
    runs = {"slow": run(0.4), "fast": run(0.2), "failing": run(0.2, num_failed=1)}
    lines = compare_table(runs, GOALS).splitlines()
    rows = {line[:27].strip(): line[27:] for line in lines}
    assert rows["time to first token, p99"].split() == ["400", "ms", "200", "ms", "200", "ms"]
    assert rows["goodput, share"].split() == ["0.0%", "100.0%*", "80.0%"]
    assert rows["goodput, rate offered"].split() == ["1.33/s", "1.33/s", "1.67/s"]
    assert rows["requests, failed"].split() == ["0.0%", "0.0%", "20.0%"], "two are as good"
    assert "*" not in rows["requests, all"]
    assert "*" not in rows["requests, prompt cached"], "all are alike"


def test_one_run_wins_nothing_and_no_run_has_nothing() -> None:
    assert not any(row.leaders for row in compared([summarize(run(0.2))]))
    rows = {(row.group, row.name): row for row in compared([summarize([]), summarize(run(0.2))])}
    assert rows["time to first token", "p50"].texts == ("-", "200 ms")
    assert ("goodput", "share") not in rows


def test_goals_in_words() -> None:
    assert goals_text(GOALS) == "ttft 300 ms, tpot 100 ms"


def test_json_has_figures_and_requests() -> None:
    outcomes = run(0.25, num_failed=1)
    figures = json.loads(json.dumps(run_json(outcomes, GOALS)))
    assert figures["num_requests"] == 5
    assert figures["ttft"]["p99"] == pytest.approx(0.25)
    assert figures["goodput"] == {
        "share": 0.8,
        "rate": pytest.approx(4 / 3.75),
        "num_output": 24,
    }
    assert figures["goals"] == {"ttft_s": 0.3, "tpot_s": 0.1, "jct_s": None}
    listed = json.loads(json.dumps(outcomes_json(outcomes)))
    assert len(listed) == 5
    assert (listed[1]["ttft_s"], listed[4]["error"]) == (0.25, "status 429")


def test_columns_stand_under_each_other() -> None:
    assert aligned([("a", "1"), ("bcd", "100")]) == "a      1\nbcd  100"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.2, 0.9], ["200 ms", "900 ms"]),
        ([0.2, 1.23], ["200 ms", "1,230 ms"]),
        ([1.2, 123.4], ["1.20 s", "123 s"]),
        ([0.2, 12.3], ["0.20 s", "12.30 s"]),
        ([0.0123, 12.3], ["12.3 ms", "12.3 s"]),
        ([0.0, 2.0], ["0 ms", "2.00 s"]),
        ([], []),
    ],
)
def test_times_beside_each_other_have_one_unit(values: list[float], texts: list[str]) -> None:
    assert [seconds_form(values)(value) for value in values] == texts
