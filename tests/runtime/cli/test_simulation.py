"""`mserve simulate` and `mserve compare` as a person types them."""

import json
import re
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from mserve.runtime.cli import main
from mserve.runtime.cli.output import StatusLine
from mserve.runtime.simulator.runs import Run, RunDriver
from mserve.runtime.simulator.workers import Workers

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
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "balanced on 1+1 workers, 2 GPUs"
    assert lines[2].split() == ["tail=0%", "tail=25%", "tail=50%"]


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


DIES = ("--fault", "kill decode-0 at 1s", "--fault", "restart decode-0 at 4s")


def test_faults_are_listed_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    page, chrome = tmp_path / "page.html", tmp_path / "trace.json"
    assert simulate("prefill_decode", *DIES, "--html", str(page), "--chrome", str(chrome)) == 0
    out = capsys.readouterr().out
    assert "1 kill, 1 restart: kill decode-0 at 1.00 s, restart decode-0 at 4.00 s" in out
    assert not caplog.records, "what the router logs is of no real cluster"
    assert "kill decode-0" in page.read_text()
    assert "slow start" in page.read_text(), "whom to ask about"
    instants = [e for e in json.loads(chrome.read_text())["traceEvents"] if e["ph"] == "i"]
    assert [(e["name"], e["ts"], e["tid"]) for e in instants] == [
        ("kill decode-0", 1e6, 0),
        ("restart decode-0", 4e6, 0),
    ]


def test_random_faults_are_those_of_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for seed in ("1", "1", "2"):
        words = ("--fault", "random:every=500ms,repair=1s", "--seed", seed, "--format", "json")
        assert simulate("data_parallel", *words) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["num_finished"] + found["num_failed"] == 20
        runs.append((found["faults"], found["digest"]))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert {fault["what"] for fault in runs[0][0]} == {"kill", "restart"}


def test_why_a_request_went_where_it_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = tmp_path / "plans.jsonl"
    assert simulate("balanced", *DIES, "--why", "3", "--plans", str(plans)) == 0
    out = capsys.readouterr().out
    assert "slow start  requests 3 (" in out, "the one that waited for the worker longest"
    shown = out.partition("\nrequest 3, ")[2]
    assert "route short passed over: its guard does not hold" in shown
    assert "p = argmin(load(w) for w in prefill)" in shown
    assert re.search(r"time to first token predicted for split [\d.]+ ms, short [\d.]+ ms", shown)
    assert "MiB" in shown, "what the KV of a token has, not the byte that stands for it"
    assert main(["why", "3", str(plans)]) == 0
    assert capsys.readouterr().out == shown
    assert main(["why", "20", str(plans)]) == 2
    assert "has no request 20: it has 20" in said(capsys)
    assert main(["why", "3", str(tmp_path / "plan.jsonl")]) == 2
    assert "There is no file" in said(capsys)


def test_why_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("balanced", "--format", "json") == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert simulate("balanced", "--why", "3", "--why", "4", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["digest"] == digest, "who asks changes nothing"
    plans = found["plans"]
    assert [plan["request_id"] for plan in plans.values()] == ["request-3", "request-4"]
    assert plans["3"]["attempts"][0]["bindings"].keys() == {"p", "d"}


def test_a_worker_that_falls_silent_is_reported_with_who_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = RunDriver._schedule

    def once(driver: RunDriver, run: Run) -> None:
        if not driver.num_runs:
            schedule(driver, run)

    monkeypatch.setattr(RunDriver, "_schedule", once)
    assert simulate("data_parallel") == 1
    message = said(capsys)
    assert message.startswith("mserve: error: The simulation cannot go on")
    assert "  request 0 waits in Simulation._request > Executor.execute" in message
    assert "Traceback" not in message


def test_a_mistake_of_ours_is_reported_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of nothing")

    monkeypatch.setattr("mserve.runtime.router.placement.Placement.place", broken)
    assert simulate("data_parallel") == 1
    lines = said(capsys).splitlines()
    assert lines[1] == "ZeroDivisionError: of nothing"
    assert lines[2].startswith("  in broken, test_simulation.py:")


def test_what_is_not_given_back_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Workers, "leftovers", lambda workers: ["workers-0 holds 3 plans"])
    assert simulate("data_parallel") == 1
    assert "Not all was given back: workers-0 holds 3 plans." in said(capsys)


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_ctrl_c_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pressed when the first 200 requests have ended."""
    monkeypatch.setattr(StatusLine, "show", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(StatusLine, "__exit__", lambda *_: None)
    trace = "poisson:rate=100,input=10,output=1,num=500"
    assert main([command, "data_parallel", "--trace", trace]) == 130
    (line,) = said(capsys).splitlines()
    assert re.fullmatch(r"mserve: interrupted: [\d,]+ requests ended, \d+ s simulated", line)


@pytest.mark.parametrize("flag", ["--why", "--plans", "--chrome"])
def test_a_sweep_has_no_single_run(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("balanced", "--sweep", "tail=0%..50%:2", flag, "1") == 2
    assert f"{flag} is about a single run" in said(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cluster", "wrkers=2"), "no pool 'wrkers'"),
        (("--cluster", "workers"), "as prefill=5,decode=3, not 'workers'"),
        (("--fault", "kill workers-7 at 1s"), "for a fault; it has workers-0"),
        (("--fault", "burn workers-0"), "kill WORKER at TIME"),
        (("--fault", "random:every=1s"), "lacks `repair`"),
        (("--why", "first"), "numbered from 0"),
        (("--why", "20"), "There is no request 20: this traffic has 20, numbered 0 to 19"),
        (("--limit", "1", "--why", "1"), "this traffic has one, number 0"),
        (("--slo", "ttft=500"), "--slo ttft: 500 what? Write 500ms or 500s"),
        (("--duration", "0s"), "--duration must be above 0, not 0s"),
        (("--plans", "/nowhere/plans.jsonl"), "cannot be written"),
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
    assert "known are h200, h100" in said(capsys)
