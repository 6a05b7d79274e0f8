"""Simulations in processes of their own: the same as one after the other, and nobody hangs."""

import argparse
import json
import os
import time
from pathlib import Path

import pytest

from mserve.runtime.cli import main
from mserve.runtime.cli.jobs import POLL_S, Job, Jobs, Made
from mserve.runtime.cli.sweeps import NO_SWEEP
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.results import Result
from mserve.runtime.simulator.sizes import ClusterSize

JOB = Job("balanced", {}, ClusterSize({"prefill": 1}, 1), NO_SWEEP.points[0], 3, True)


def die(arguments: argparse.Namespace, job: Job) -> Made:
    os._exit(9)


def refuse(arguments: argparse.Namespace, job: Job) -> Made:
    raise ConfigError(f"no {arguments.trace} with seed {job.seed}")


def answer(arguments: argparse.Namespace, job: Job) -> Made:
    time.sleep(2 * POLL_S)
    return Result(num_events=job.seed), None


def test_results_are_those_of_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    command = "compare data_parallel balanced --cluster 3 --splits --seeds 2 --format json --trace"
    given = [*command.split(), "poisson:rate=20,input=900,output=30,num=40"]
    outputs = []
    for jobs in ("1", "2"):
        assert main([*given, "--jobs", jobs]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1]


def test_lanes_travel_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for jobs in ("1", "2"):
        page = tmp_path / "page.html"
        given = f"compare data_parallel least_loaded --cluster 2 --jobs {jobs} --html {page}"
        assert main([*given.split(), "--trace", "poisson:rate=20,input=900,output=9,num=30"]) == 0
        pages.append(page.read_text().replace(f"--jobs {jobs}", ""))
    assert pages[0] == pages[1]


def test_what_a_process_raises_is_raised_here() -> None:
    jobs = Jobs(refuse, argparse.Namespace(trace="traffic", run=lambda: 0), 1, "fork")
    jobs.start(JOB)
    with pytest.raises(ConfigError, match="no traffic with seed 3"):
        jobs.result(JOB, lambda text: None)
    jobs.close()


def test_a_process_that_is_killed_is_an_error() -> None:
    jobs = Jobs(die, argparse.Namespace(), 1, "fork")
    jobs.start(JOB)
    with pytest.raises(ConfigError, match="fewer --jobs"):
        jobs.result(JOB, lambda text: None)
    jobs.close()


def test_it_tells_how_far_all_are() -> None:
    told: list[str] = []
    jobs = Jobs(answer, argparse.Namespace(), 1, "fork")
    jobs.start(JOB)
    result, recorder = jobs.result(JOB, told.append)
    jobs.close()
    assert (result.num_events, recorder) == (3, None)
    assert told[0] == "0 of 1 simulations have ended"


def test_none_at_a_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", "balanced", "--trace", "poisson:rate=1,input=9", "--jobs", "0"])
    assert "at least 1, not '0'" in capsys.readouterr().err
