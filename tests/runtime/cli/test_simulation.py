"""`mserve simulate` and `mserve compare` as a person types them."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from mserve.runtime.cli import main

TRACE = "poisson:rate=8,input=800,output=10,num=20"
HARDWARE = ("--gpu", "h100", "--model", "llama-3.1-8b")


def simulate(*words: str) -> int:
    return main(["simulate", *words, "--trace", TRACE, *HARDWARE])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_table_of_what_would_happen(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("balanced", "--set", "tail=20%", "--slo", "ttft=1s") == 0
    text = capsys.readouterr().out
    for name in ("time to first token", "goodput", "split: 20", "pool", "transfers", "price"):
        assert name in text


def test_json_has_the_figures_and_the_digest(capsys: pytest.CaptureFixture[str]) -> None:
    digests = set()
    for _ in range(2):
        assert simulate("data_parallel", "--cluster", "workers=2", "--format", "json") == 0
        found = json.loads(capsys.readouterr().out)
        digests.add(found["digest"])
    assert found["num_finished"] == 20
    assert found["pools"][0]["num_workers"] == 2
    assert len(digests) == 1


def test_a_param_changes_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    transfers = []
    for tail in ("10%", "60%"):
        assert simulate("balanced", "--set", f"tail={tail}", "--format", "json") == 0
        transfers.append(json.loads(capsys.readouterr().out)["transferred_gb"])
    assert transfers[0] > 1.8 * transfers[1]


def test_a_sweep_is_a_column_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("balanced", "--sweep", "tail=0%..50%:3") == 0
    head = capsys.readouterr().out.splitlines()[0].split()
    assert head == ["tail=0%", "tail=25%", "tail=50%"]


def test_strategies_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    words = ["compare", "data_parallel", "balanced", "--cluster", "workers=2", "--seeds", "2"]
    assert main([*words, "--trace", TRACE, *HARDWARE, "--html", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["data_parallel", "balanced"]
    assert any("time per output token, mean" in line and "±" in line for line in lines)
    assert "<svg" in page.read_text()


def test_the_steps_as_a_chrome_trace(tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    assert simulate("prefill_decode", "--chrome", str(out)) == 0
    events = json.loads(out.read_text())["traceEvents"]
    lanes = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert lanes == ["decode-0", "prefill-0"]
    steps = [event for event in events if event["ph"] == "X"]
    prefilled = [event["args"]["prompt tokens"] for event in steps if event["tid"] == 1]
    answered = sum(event["args"]["steps"] * event["args"]["answers"] for event in steps)
    assert sum(prefilled) == 20 * 799
    assert answered == 20 * 9  # the first token is a prefill's
    by_lane = sorted((event["tid"], event["ts"], event["dur"]) for event in steps)
    for (lane, begin, length), (other, after, _) in pairwise(by_lane):
        assert lane != other or begin + length <= after + 0.01


def test_a_worker_that_dies_takes_no_request_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    fault = ("--cluster", "workers=2", "--fault", "kill workers-1 at 1s")
    assert simulate("data_parallel", *fault, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_finished"], found["num_failed"]) == (20, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cluster", "wrkers=2"), "no pool 'wrkers'"),
        (("--cluster", "workers"), "POOL=COUNT"),
        (("--fault", "kill workers-7 at 1s"), "did you mean 'workers-0'"),
        (("--fault", "burn workers-0"), "kill WORKER at TIME"),
        (("--set", "tail=20%"), "tail"),
        (("--rate", "0"), "--rate must be above 0"),
        (("--rate", "2", "--speed", "2"), "give one of them"),
        (("--sweep", "tail"), "--sweep takes"),
        (("--gpus-per-worker", "3"), "heads"),
    ],
)
def test_what_is_wrong_is_said(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("data_parallel", *words) == 2
    assert message in said(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cluster", "wrkers=2"), "None of these strategies has a pool 'wrkers'"),
        (("--set", "head=2"), "None of these strategies has a param 'head'"),
        (("--seeds", "0"), "--seeds must be at least 1"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_said(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "data_parallel", "balanced", "--trace", TRACE, *words]) == 2
    assert message in said(capsys)


def test_an_unknown_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "data_parallel", "--trace", TRACE, "--gpu", "h2000"]) == 2
    assert "did you mean 'h200'" in said(capsys)
