"""`mserve compare` is fair: as many GPUs for everyone; splits of them; loads; seeds that do not mix."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime.cli import main
from mserve.runtime.cli.output import StatusLine

TRACE = ("--trace", "poisson:rate=8,input=800,output=10,num=20")
HARDWARE = ("--gpu", "h100", "--model", "llama-3.1-8b")
EIGHT = ("--cluster", "8")


def compare(*words: str) -> int:
    return main(["compare", *words, *TRACE, *HARDWARE])


def table(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert compare(*words) == 0
    return capsys.readouterr().out.splitlines()


def found(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert compare(*words, "--format", "json") == 0
    return json.loads(capsys.readouterr().out)


# --- as many GPUs for everyone ------------------------------------------------------------------


def test_a_number_of_workers_is_everyones(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(capsys, "data_parallel", "prefill_decode", *EIGHT)
    assert lines[0].split() == ["data_parallel", "prefill_decode"]
    assert re.split("  +", lines[1].strip()) == ["8 workers, 8 GPUs", "4+4 workers, 8 GPUs"]


def test_pools_may_be_counted_with_commas(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--cluster", "prefill=2,decode=1", "--cluster", "workers=3", "--gpus-per-worker", "2")
    clusters = found(capsys, "data_parallel", "prefill_decode", *words)["clusters"]
    assert clusters == {
        "data_parallel": {"workers": {"workers": 3}, "gpus": 6},
        "prefill_decode": {"workers": {"prefill": 2, "decode": 1}, "gpus": 6},
    }


@pytest.mark.parametrize("words", [(), ("--cluster", "workers=8")])
def test_different_numbers_of_gpus_are_refused_unless_meant(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("data_parallel", "prefill_decode", *words) == 2
    error = capsys.readouterr().err
    assert "prefill_decode 1+1 workers, 2 GPUs" in error
    assert f"Write --cluster {8 if words else 2} " in error
    assert compare("data_parallel", "prefill_decode", *words, "--unequal") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cluster", "1"), "1 worker cannot be shared out over 2 pools (prefill, decode)"),
        (("--cluster", "0"), "--cluster 0: give at least one worker"),
        (("--cluster", "decode=0"), "--cluster decode=0: give at least one worker"),
        (("--cluster", "decode=1,decode=2"), "--cluster is given decode twice"),
        (("--cluster", "8,decode=2"), "not both"),
        (("--cluster", "8", "--cluster", "9"), "not both"),
        (("--cluster", "decode="), "not 'decode='"),
        (("--cluster", ""), "not ''"),
        (("--gpus-per-worker", "0"), "--gpus-per-worker must be at least 1, not 0"),
        (("--splits",), "--splits shares out the workers of --cluster N"),
        (("--splits", "--cluster", "decode=2"), "--splits shares out"),
        ((*EIGHT, "--sweep", "tail=0%..50%:3"), "--sweep tail: data_parallel has no such param"),
        ((*EIGHT, "--sweep", "rate=0..9:3"), "--sweep rate takes requests per second above 0"),
        ((*EIGHT, "--sweep", "rate=1..x:3"), "not 1..x"),
        ((*EIGHT, "--sweep", "rate=1..9:3", "--rate", "2"), "--sweep rate and --rate both set"),
        ((*EIGHT, "--sweep", "rate=1..9:3", "--speed", "2"), "--sweep rate and --speed both"),
        ((*EIGHT, "--sweep", "rate=5..5:3"), "some of its 3 values look alike"),
    ],
)
def test_what_is_wrong_is_said(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("data_parallel", "balanced", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sweep", "tial=0%..50%:3"), "--sweep: there is no param 'tial'; did you mean 'tail'?"),
        (("--set", "tial=0%"), "--set: there is no param 'tial'; did you mean 'tail'?"),
        (("--sweep", "tail=0%..500%:3"), "'tail' goes from 0% to 90%, not 500%."),
    ],
)
def test_what_is_wrong_with_a_param_names_its_flag(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "balanced", *words, *TRACE]) == 2
    assert capsys.readouterr().err == f"mserve: error: {message}\n"


# --- splits -------------------------------------------------------------------------------------


def test_the_best_split_of_the_first_seed_stands_in_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ("data_parallel", "prefill_decode", "--cluster", "4", "--splits", "--seeds", "2")
    report = found(capsys, *words, "--html", str(page))
    (splits,) = report["splits"].values()
    assert [tuple(each["workers"].values()) for each in splits["tried"]] == [(1, 3), (2, 2), (3, 1)]
    best = min(splits["tried"], key=lambda each: each["jct_mean_s"])
    assert splits["chosen"] == "+".join(map(str, best["workers"].values()))
    chosen = f"prefill_decode {splits['chosen']}"
    assert list(report["clusters"]) == ["data_parallel", chosen]
    alone = ("--cluster", ",".join(f"{pool}={count}" for pool, count in best["workers"].items()))
    again = found(capsys, "prefill_decode", *alone, "--seeds", "2")
    for row, other in zip(report["metrics"], again["metrics"], strict=True):
        assert row["estimates"][chosen] == other["estimates"]["prefill_decode"]
    assert "splits over pools, chosen (*) by mean job completion time" in page.read_text("utf-8")
    assert f"{chosen}: {splits['chosen']} workers, 4 GPUs" in page.read_text("utf-8")


def test_what_each_split_came_to_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("prefill_decode", "--cluster", "3", "--splits", "--slo", "ttft=1s")
    *_, head, line = table(capsys, *words)
    assert head.startswith("splits over pools, chosen (*) by goodput")
    assert re.fullmatch(r"  prefill_decode: 1\+2 100.0% [\d.]+ ms\*?; 2\+1 100.0% .*", line)


# --- loads and seeds ----------------------------------------------------------------------------


def test_a_sweep_of_the_rate_says_how_much_load_each_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ("data_parallel", "balanced", "--cluster", "2", "--sweep", "rate=4..400:3")
    slo = ("--slo", "ttft=100ms")
    lines = table(capsys, *words, *slo, "--html", str(page))
    shares = [line.split() for line in lines[lines.index("goodput, share") + 1 :][:3]]
    assert [words[:2] for words in shares] == [["rate", "4"], ["rate", "202"], ["rate", "400"]]
    assert shares[0][2:] == ["100.0%", "100.0%"]
    assert min(float(share.rstrip("%*")) for share in shares[2][2:]) < 90
    assert "highest swept rate that keeps 90% goodput (ttft 100 ms)" in lines
    text = page.read_text("utf-8")
    assert 'aria-label="goodput, share by rate"' in text
    assert "data_parallel and balanced with rate from 4 to 400, simulated" in text
    points = found(capsys, *words, *slo)["points"]
    assert [point["value"] for point in points] == ["4", "202", "400"]


def test_the_rate_is_the_traffics(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("data_parallel", "--sweep", "rate=10..20:2")
    swept = found(capsys, *words)["points"][1]["metrics"]
    assert swept == found(capsys, "data_parallel", "--rate", "20")["metrics"]


def test_a_param_that_all_have_is_swept(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("balanced", "adaptive", "--cluster", "2", "--sweep", "tail=10%..30%:2")
    assert any(line.startswith("  tail 30%") for line in table(capsys, *words))


def test_a_run_does_not_begin_where_another_one_s_adaptation_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second seed of two is what it is alone."""

    def mean(*words: str) -> float:
        trace = ("--trace", "poisson:rate=40,input=4000,output=20,num=100")
        assert main(["simulate", "adaptive", *words, *trace, *HARDWARE, "--format", "json"]) == 0
        report = json.loads(capsys.readouterr().out)
        if "jct" in report:
            return float(report["jct"]["mean"])
        rows = {row["metric"]: row for row in report["metrics"]}
        return float(rows["job completion time, mean"]["estimates"]["adaptive"]["mean"])

    first, second = mean("--seed", "3"), mean("--seed", "4")
    assert mean("--seed", "3", "--seeds", "2") == pytest.approx((first + second) / 2, rel=1e-12)


def test_a_simulation_over_seeds_has_margins_and_no_single_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ["simulate", "balanced", *EIGHT, "--seed", "5", "--seeds", "2", *TRACE, *HARDWARE]
    assert main([*words, "--html", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "balanced on 4+4 workers, 8 GPUs"
    assert any("time to first token, mean" in line and "±" in line for line in lines)
    text = page.read_text("utf-8")
    assert "4+4 workers, 8 GPUs (prefill+decode)" in text
    assert "5 to 6" in text
    assert 'class="tiles"' not in text, "of one seed alone"
    assert main([*words, "--why", "1"]) == 2
    assert "--seeds makes several" in capsys.readouterr().err


def test_progress_names_what_runs_and_how_much_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(StatusLine, "show", lambda _, text: told.append(text))
    monkeypatch.setattr("mserve.runtime.simulator.simulation.PROGRESS_REQUESTS", 10)
    assert compare("data_parallel", "balanced", "--cluster", "3", "--sweep", "rate=5..9:2") == 0
    heads = [re.sub(r": .*; ", "; ", text) for text in told if text]
    assert list(dict.fromkeys(heads)) == [
        "data_parallel rate=5; 3 more to come",
        "data_parallel rate=9; 2 more to come",
        "balanced rate=5; 1 more to come",
        "balanced rate=9; no more to come",
    ]


def test_splits_count_in_what_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(StatusLine, "show", lambda _, text: told.append(text))
    monkeypatch.setattr("mserve.runtime.simulator.simulation.PROGRESS_REQUESTS", 10)
    assert compare("prefill_decode", "--cluster", "3", "--splits", "--seeds", "2") == 0
    shown = [text for text in told if text]
    assert shown[0].startswith("prefill_decode 1+2: 10 requests ended")
    assert shown[0].endswith("; 2 more to come")
    assert shown[-1].endswith("; no more to come")
