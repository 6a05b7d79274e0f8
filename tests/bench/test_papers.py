"""bench/papers: what they make of figures, and a tiny run of each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from mserve.runtime.simulator.comparison import Estimate
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.spec import traffic
from papers import experiment, microserving, preble
from papers.experiment import Figure, Ratio, Run

FIGURE = Figure(
    label="toolbench, 30/s, preble",
    seed=1,
    rate=30.0,
    ttft_mean_s=0.5,
    ttft_p99_s=1.0,
    tpot_mean_s=0.02,
    jct_mean_s=2.0,
    jct_p99_s=4.0,
    cached_share=0.8,
    failed_share=0.0,
    routes={"whole": 10},
)
# Two requests a second of two blocks; the third and fourth share their first.
TRACE = (
    {"timestamp": 4000, "input_length": 600, "output_length": 4, "hash_ids": [1, 2]},
    {"timestamp": 4500, "input_length": 600, "output_length": 4, "hash_ids": [3, 4]},
    {"timestamp": 5000, "input_length": 600, "output_length": 4, "hash_ids": [5, 6]},
    {"timestamp": 5500, "input_length": 600, "output_length": 4, "hash_ids": [5, 7]},
)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is written where the published results are."""
    monkeypatch.setattr(experiment, "RESULTS", tmp_path / "papers")
    return tmp_path / "papers"


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in TRACE))
    return str(path)


def tiny(strategy: str = "data_parallel", num: int = 6) -> Run:
    return microserving.run_of(strategy, 5.6, num, seed=1)


# --- runs ---------------------------------------------------------------------------------------


def test_a_run_has_the_figures_of_what_was_simulated() -> None:
    figure = experiment.simulate(
        preble.shared("toolbench", "round_robin", 5.0, preble.Case("", 20))
    )
    assert figure.label == "toolbench, 5/s, round_robin"
    assert 0.01 < figure.ttft_mean_s < figure.jct_mean_s < figure.jct_p99_s
    assert 0 < figure.cached_share < 1
    assert sum(figure.routes.values()) == 18  # the first tenth only warms caches
    assert "cached" in experiment.line_of(figure)


def test_params_and_texts_are_those_of_the_run() -> None:
    source = (Path(__file__).parents[2] / "strategies" / "deflect.mserve").read_text("utf-8")
    crowd = "poisson:rate=100,input=3000,output=2,num=6"
    never = replace(tiny("deflect"), traffic=crowd, params={"margin": 10.0})
    soon = replace(never, strategy=source, params={"margin": 0.0})
    assert experiment.simulate(never).routes == {"split": 6}
    assert set(experiment.simulate(soon).routes) == {"split", "whole"}


def test_runs_that_belong_together_come_back_together() -> None:
    seeds = experiment.seeded(tiny(), range(3, 5))
    one, other = experiment.grouped([seeds, [tiny("deflect")]], num_processes=1)
    assert [figure.seed for figure in one] == [3, 4]
    assert one[0].ttft_mean_s != one[1].ttft_mean_s
    assert [figure.label for figure in other] == ["deflect, 5.6/s, 8192/8192"]


def test_windows_of_a_trace_follow_each_other(trace: str) -> None:
    run = Run("x", "least_loaded", trace, {"workers": 1}, preble.H200, rate=2.0, num=2)
    first, second = experiment.windows(run, 2)

    def seen(run: Run) -> list[Arrival]:
        return list(experiment.arrivals_of(run))

    whole = list(traffic(trace))
    assert [arrival.blocks for arrival in seen(first)] == [each.blocks for each in whole[:2]]
    assert [arrival.blocks for arrival in seen(second)] == [each.blocks for each in whole[2:]]
    assert [arrival.at_s for arrival in seen(second)] == [0.0, 0.5]
    assert experiment.simulate(first).cached_share == 0
    assert experiment.simulate(second).cached_share == pytest.approx(512 / 1200)
    assert not seen(replace(run, rate=None, skip=9))


# --- arithmetic ---------------------------------------------------------------------------------


def test_gains_are_by_seed_with_their_margin() -> None:
    ours = [replace(FIGURE, jct_mean_s=mean, seed=seed) for seed, mean in enumerate((2.0, 1.0))]
    theirs = [replace(FIGURE, jct_mean_s=mean, seed=seed) for seed, mean in enumerate((4.0, 4.0))]
    found = preble.gain("toolbench", 30.0, ours, theirs)
    assert found.strategy == "preble"
    assert found.mean.mean == pytest.approx(8**0.5)  # of 2 and 4
    assert found.mean.low < 2 < 4 < found.mean.high  # two seeds say little
    assert str(found.p99) == "1.0"


def test_a_ratio_is_wrong_by_factors() -> None:
    found = Ratio.of([2.0, 4.0, 8.0])
    assert found.mean == pytest.approx(4.0)
    assert found.high / found.mean == pytest.approx(found.mean / found.low)
    assert str(found) == "4.0 (0.7 to 22)"


def test_an_estimate_says_how_sure_it_is() -> None:
    assert experiment.spelled(Estimate(2.346, 0.118)) == "2.35 ± 0.12"
    assert experiment.spelled(Estimate(281.4, 0.0), " ms", 0) == "281 ms"


def test_beginnings_are_as_many_as_requests_make_groups() -> None:
    assert preble.num_beginnings("toolbench", 600) == 15
    assert preble.num_beginnings("loogle", 1) == 1
    few, many = (preble.shared_tokens("toolbench", num) for num in (600, 6000))
    assert 20_000 < few < 25_000
    assert many > 200_000


def test_a_verdict_compares_times_seed_by_seed() -> None:
    ours = [replace(FIGURE, jct_p99_s=4.0), replace(FIGURE, jct_p99_s=2.0)]
    theirs = [replace(FIGURE, ttft_mean_s=0.4, jct_p99_s=5.0)] * 2
    found = microserving.verdict("deflect", ours, (512, 256), theirs)
    assert found.ttft == Estimate(125.0, 0.0)
    assert found.jct_p99_less.mean == pytest.approx(40.0)  # of 20% and 60%
    assert found.jct_p99_less.margin > 20
    assert found.budget == (512, 256)


def test_a_budget_is_for_workers_whose_pool_does_not_say() -> None:
    run = microserving.run_of("data_parallel", 5.6, 100, 1, (512, 256))
    assert (run.options.max_batch_tokens, run.options.chunk_tokens) == (512, 256)
    assert run.cluster == {"workers": 2}
    assert microserving.run_of("deflect", 5.6, 100, 1).cluster == {"prefill": 1, "decode": 1}


# --- what is printed and kept -------------------------------------------------------------------


def test_a_chart_stands_alone(results: Path) -> None:
    by_rate: Mapping[float, Mapping[str, Sequence[Figure]]] = {
        rate: {
            name: [replace(FIGURE, jct_mean_s=rate * place)]
            for place, name in enumerate(preble.STRATEGIES, 1)
        }
        for rate in (1.0, 2.0)
    }
    preble.chart("toolbench", by_rate)
    svg = fromstring((results / "preble-toolbench.svg").read_text())
    assert svg.tag.endswith("svg")
    text = " ".join(svg.itertext())
    assert "toolbench: requests/s" in text
    for name in preble.STRATEGIES:
        assert name in text


def test_microserving_stands_beside_the_paper(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    microserving.published([1.6], num=6, num_processes=1)
    printed = capsys.readouterr().out
    assert "0.33 /" in printed
    assert "M/D/1" in printed
    charts = {path.name for path in results.iterdir()}
    assert "microserving-p99-job-completion-time.svg" in charts


def test_microserving_compares_with_every_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(microserving, "BUDGETS", (microserving.DEFAULT, (512, 512)))
    found = microserving.compared(num=4, num_seeds=1, num_processes=1)
    kept = {(each.strategy, each.budget) for each in found[1]}
    assert kept == {(n, b) for n in microserving.OURS for b in ((8192, 8192), (512, 512))}
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == len(microserving.OURS) + 2
    assert rows[-1].startswith("| `data_parallel`, 512/512 | ")
    assert rows[-1].count("% at ") == len(microserving.OURS)


def test_a_workload_of_preble_has_rows_and_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(preble.SWEEPS, "video-qa", preble.Sweep(20, (1.0, 3.0)))
    kept = preble.published("video-qa", range(1, 3), num_processes=1)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["video-qa, 1/s", "video-qa, 3/s"]
    assert " to " in rows[0]
    figures = kept["figures"]
    assert isinstance(figures, list)
    assert len(figures) == 2 * 4 * 2


def test_why_changes_one_thing_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        preble, "CASES", (preble.Case("as it is", 120), preble.Case("y", 120, None))
    )
    monkeypatch.setattr(preble, "WHY_RATES", {"toolbench": 20.0})
    rows = preble.explained(range(1, 2), num_processes=1)["rows"]
    assert isinstance(rows, list)
    assert [row["case"] for row in rows] == ["as it is", "y"]
    assert rows[0]["gain"] != rows[1]["gain"]
    assert "| toolbench | as it is | " in capsys.readouterr().out


def test_a_trace_is_replayed_under_every_strategy(
    trace: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preble, "MOONCAKE_WINDOW", 2)
    monkeypatch.setattr(preble, "ON_A_TRACE", ("round_robin", "preble_live"))
    kept = preble.mooncake(trace, num_windows=2, num_processes=1)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"{workers} workers, `{name}`" for workers in (4, 8) for name in preble.ON_A_TRACE
    ]
    figures = kept["figures"]
    assert isinstance(figures, list)
    assert len(figures) == 2 * 2 * 2


def test_figures_are_kept_with_their_question(results: Path) -> None:
    experiment.write_figures("some", "what?", figures=experiment.as_json([FIGURE]))
    kept = json.loads((results / "some.json").read_text())
    assert kept["question"] == "what?"
    assert kept["figures"][0]["jct_mean_s"] == 2.0
