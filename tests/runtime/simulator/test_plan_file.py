"""Plans of simulated requests, kept in memory and in a file, are found again by the request's number."""

import json
from pathlib import Path

import pytest

from mserve.compiler.plan import Decision, Plan, StartGenerate
from mserve.compiler.protocol import StepEvent
from mserve.runtime.errors import ConfigError
from mserve.runtime.router.plans import AttemptRecord, PlanRecord, plan_json
from mserve.runtime.simulator.plan_file import PlanFile, PlanShelf, read_plan, request_number
from mserve.runtime.simulator.requests import request_id


def record(number: int, *, is_over: bool = True) -> PlanRecord:
    step = StartGenerate(id="s1", worker="workers-0", begin=0)
    plan = Plan(strategy="alone", route="only", num_tokens=10, steps=(step,))
    found = PlanRecord(f"{number:012x}", request_id(number), 5.0, 10)
    found.attempts.append(AttemptRecord(5.0, Decision(plan, {}, ())))
    if is_over:
        found.attempts[0].cancel_open(6.0)
    return found


def test_a_plan_is_found_by_its_request_or_its_own_id(tmp_path: Path) -> None:
    path = tmp_path / "plans.jsonl"
    with PlanFile(path) as plans:
        for number in range(12):
            plans.add(record(number))
    for name in ("11", "request-11", "00000000000b"):
        assert read_plan(path, name) == json.loads(json.dumps(plan_json(record(11))))


def test_a_plan_that_still_copies_is_written_as_it_ends(tmp_path: Path) -> None:
    path, copying = tmp_path / "plans.jsonl", record(0, is_over=False)
    with PlanFile(path) as plans:
        plans.add(copying)
        for event in (StepEvent.START, StepEvent.FINISH):
            copying.attempts[0].steps["s1"].advance(event)
    assert read_plan(path, "0")["attempts"][0]["steps"][0]["state"] == "done"


def test_a_request_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "plans.jsonl"
    with PlanFile(path) as plans:
        plans.add(record(0))
    with pytest.raises(ConfigError, match="has no request 1: it has 1, counted from 0"):
        read_plan(path, "1")


@pytest.mark.parametrize("text", ["# README", '{"id": 1}', "[]", '"id"', "\x00"])
def test_a_file_of_something_else(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no file of plans: `mserve simulate"):
        read_plan(path, "0")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        PlanFile(tmp_path / "nowhere" / "plans.jsonl")


def test_a_shelf_keeps_what_was_asked_for() -> None:
    shelf = PlanShelf([1, 3])
    for number in range(3):
        shelf.add(record(number))
    assert shelf.plan(1) == plan_json(record(1))
    with pytest.raises(ConfigError, match="no request 3"):
        shelf.plan(3)


@pytest.mark.parametrize("text", ["", "foo", "-1", "1.5", "request-", "²"])
def test_requests_are_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="numbered from 0"):
        request_number(text)
