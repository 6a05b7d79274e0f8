"""`mserve bench` against a real cluster: every request is measured, and what it shares is cached."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime import cli
from mserve.runtime.simulator import probing
from mserve.runtime.simulator.profile import read_profile


@pytest.fixture(scope="module")
def server(serve: Any) -> Iterator[Any]:
    with serve("data_parallel", "--cluster", "workers=1", "--kv-memory", "32MiB") as server:
        yield server


def test_shared_prompts_are_measured_and_cached(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(
        [
            *("bench", server.url, "--trace", "preble-toolbench:rate=12,num=12", "--scale", "0.1"),
            *("--slo", "ttft=60s", "--format", "json"),
            *("--json", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html")),
        ]
    )
    captured = capsys.readouterr()
    assert status == 0, captured.err
    figures = json.loads(captured.out)
    assert (figures["num_finished"], figures["model"]) == (12, "mserve-tiny")
    assert figures["goodput"]["share"] == 1.0
    assert figures["cached_share"] > 0.3
    outcomes = json.loads((tmp_path / "run.json").read_text())["outcomes"]
    assert len(outcomes) == 12
    assert all(0 < each["ttft_s"] <= each["jct_s"] for each in outcomes)
    assert {each["route"] for each in outcomes} == set(figures["routes"])
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    spec = ("--trace", "poisson:rate=50,input=20,output=2,num=3")
    assert cli.main(["bench", server.url, *spec, "--against", str(tmp_path / "run.json")]) == 0
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if "this run" in line]
    assert heads == [["this", "run", "run"]]


def test_a_seed_gives_the_same_prompts_again(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def cached_share(*seed: str) -> float:
        spec = "poisson:rate=50,input=200,output=2,num=4"
        assert cli.main(["bench", server.url, "--trace", spec, "--format", "json", *seed]) == 0
        return float(json.loads(capsys.readouterr().out)["cached_share"])

    assert cached_share("--seed", "5") < 0.1
    assert cached_share("--seed", "5") > 0.9
    assert cached_share() < 0.1


def test_requests_that_fail_are_counted(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    spec = "poisson:rate=50,input=20,output=2,num=3"
    assert cli.main(["bench", server.url, "--trace", spec, "--vocab", "2040..3000"]) == 1
    captured = capsys.readouterr()
    assert "status 400: 3 (100.0%)" in captured.out
    assert "the vocabulary ends at 2047" in captured.err


def test_ctrl_c_shows_what_there_is(server: Any) -> None:
    def num_done() -> int:
        plans = server.ask("/v1/plans")[1]["plans"]
        return sum(plan["state"] == "done" for plan in plans)

    spec = "poisson:rate=1,input=20,output=2,num=10000"
    before, deadline_s = num_done(), time.monotonic() + 60
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mserve",
            "bench",
            server.url,
            "--concurrency",
            "1",
            "--trace",
            spec,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while num_done() < before + 10:  # some of them find out about the model
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline_s, "it sends nothing"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "time to first token" in out
    assert "Interrupted" in err


def test_a_cluster_is_calibrated_and_simulated(
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probing, "LENGTHS", (16, 128))
    monkeypatch.setattr(probing, "BATCHES", (2,))
    monkeypatch.setattr(probing, "TOGETHER_TOKENS", 16)
    monkeypatch.setattr(probing, "REPEATS", 1)
    profile = str(tmp_path / "profile.json")
    assert cli.main(["calibrate", server.url, "-o", profile]) == 0
    assert "a step of answers only" in capsys.readouterr().out
    found = read_profile(Path(profile))
    assert (
        found.limits.num_pages * found.limits.page_size * found.link.kv_bytes_per_token == 32 << 20
    )
    assert {point.cached for point in found.prompts} >= {0, 127}
    spec = ("--trace", "poisson:rate=2,input=100,output=4,num=10", "--format", "json")
    assert cli.main(["simulate", "data_parallel", "--profile", profile, *spec]) == 0
    assert json.loads(capsys.readouterr().out)["num_finished"] == 10
    assert (
        cli.main(["simulate", "data_parallel", "--profile", profile, *spec, "--gpu", "l40s"]) == 2
    )
