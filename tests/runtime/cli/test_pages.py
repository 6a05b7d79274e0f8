"""Pages of simulations say how to repeat them, and show the figures that the JSON has."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime.cli import main
from mserve.runtime.cli.pages import write_measurement
from mserve.runtime.traffic.outcomes import Outcome

TRACE = "poisson:rate=8,input=800,output=10,num=20"
HARDWARE = ("--gpu", "h100", "--model", "llama-3.1-8b")


def written(page: Path, *words: str) -> str:
    assert main([*words, "--trace", TRACE, *HARDWARE, "--html", str(page)]) == 0
    return page.read_text("utf-8")


def json_of(capsys: pytest.CaptureFixture[str], page: Path, *words: str) -> tuple[str, Any]:
    text = written(page, *words, "--format", "json")
    return text, json.loads(capsys.readouterr().out)


def values(page: str) -> set[str]:
    return set(re.findall(r'data-value="([^"]+)"', page))


def test_a_simulation_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, found = json_of(capsys, tmp_path / "p.html", "simulate", "balanced", "--seed", "7")
    assert f"mserve simulate balanced --seed 7 --format json --trace {TRACE} --gpu h100" in page
    assert "<dt>seed</dt><dd>7</dd>" in page
    assert f"<dd>{TRACE}</dd>" in page
    assert found["digest"] in page
    assert {repr(found["ttft"]["p99"]), repr(found["output_rate"])} <= values(page)
    assert "per million output tokens" in page


def test_a_fault_is_marked(tmp_path: Path) -> None:
    fault = ("--cluster", "workers=2", "--fault", "kill workers-1 at 1s")
    page = written(tmp_path / "p.html", "simulate", "data_parallel", *fault)
    assert page.count('class="mark"') == 3, "over the load, and in its worker's lane"
    assert ">dead</span>" in page
    assert "<dt>faults</dt><dd>kill workers-1 at 1s</dd>" in page


def test_a_comparison_has_the_means_over_the_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", "data_parallel", "balanced", "--cluster", "workers=2", "--seeds", "2")
    page, found = json_of(capsys, tmp_path / "p.html", *words)
    means = [estimate["mean"] for row in found["metrics"] for estimate in row["estimates"].values()]
    assert {repr(mean) for mean in means} <= values(page)
    assert "data_parallel and balanced, simulated" in page
    assert "<dt>seeds</dt><dd>0 to 1</dd>" in page
    assert 'class="margin">±' in page


def test_a_simulation_shows_its_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("simulate", "prefill_decode", "--cluster", "decode=2")
    page, found = json_of(capsys, tmp_path / "p.html", *words)
    assert page.index(">Load<") < page.index(">Workers<") < page.index(">Requests<")
    assert 'aria-label="workers of prefill_decode"' in page
    assert re.findall(r'class="name">([^<]*)<', page) == ["prefill-0", "decode-0", "decode-1"]
    (prefill,) = (pool for pool in found["pools"] if pool["pool"] == "prefill")
    assert f">{prefill['busy']:.1%} prefill</text>" in page


def test_a_comparison_shows_the_workers_of_each_strategy(tmp_path: Path) -> None:
    strategies = ("data_parallel", "balanced", "preble", "prefill_decode", "adaptive")
    page = written(tmp_path / "p.html", "compare", *strategies, "--cluster", "40")
    assert re.findall(r'aria-label="workers of ([^"]*)"', page) == list(strategies)
    assert "workers: the 4 busiest and the 4 idlest of 40 workers" in page
    assert "mean of 32 others" in page
    assert len(page) < 1_000_000


def test_lanes_are_of_the_first_seed(tmp_path: Path) -> None:
    words = ("compare", "data_parallel", "balanced", "--cluster", "2", "--seeds")
    pages = [written(tmp_path / "p.html", *words, num_seeds) for num_seeds in ("1", "2")]
    one, two = (re.findall(r'<path class="area[^>]*>', page) for page in pages)
    assert one == two != []


def test_a_sweep_has_no_lanes(tmp_path: Path) -> None:
    page = written(tmp_path / "p.html", "simulate", "balanced", "--sweep", "tail=0%..50%:2")
    assert ">Workers<" not in page


def test_one_seed_is_said_to_be_one(tmp_path: Path) -> None:
    page = written(tmp_path / "p.html", "compare", "data_parallel", "balanced", "--cluster", "2")
    assert "This is one seed: who is a few percent ahead" in page
    assert 'class="margin"' not in page


def test_a_sweep_is_drawn_over_its_param(tmp_path: Path) -> None:
    page = written(tmp_path / "p.html", "simulate", "balanced", "--sweep", "tail=0%..50%:3")
    assert "balanced with tail from 0% to 50%, simulated" in page
    assert 'aria-label="time to first token by tail"' in page


def test_what_is_set_is_said(tmp_path: Path) -> None:
    words = ("simulate", "balanced", "--set", "tail=20%", "--limit", "10")
    page = written(tmp_path / "p.html", *words)
    assert "<dt>params</dt><dd>tail=20%</dd>" in page
    assert f"<dd>{TRACE}; the first 10</dd>" in page


def test_a_measurement_names_its_server_but_no_password(tmp_path: Path) -> None:
    url = "https://me:secret@example.org:8000"
    arguments = Namespace(
        command_line=["bench", url, "--concurrency", "4"],
        html=tmp_path / "p.html",
        url=url,
        trace=TRACE,
        concurrency=4,
        seed=None,
    )
    outcomes = [Outcome(0.0, 0.1, 0.5, 10, 5)]
    write_measurement(arguments, "tiny", {"this run": outcomes}, None, ["One note."])
    page = arguments.html.read_text("utf-8")
    assert "secret" not in page
    assert "<dd>https://example.org:8000</dd>" in page
    assert "mserve bench https://example.org:8000 --concurrency 4" in page
    assert f"<dd>{TRACE}; 4 at once</dd>" in page
    assert "prompts were new" in page
    assert "<p>One note.</p>" in page
