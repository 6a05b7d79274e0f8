"""Plans as JSON: what goes out comes back, anything else is refused with its place."""

import json
from dataclasses import replace

import pytest

from mserve.compiler.lower import Lowering, segments_between
from mserve.compiler.passes import Draft, Handoff, Replica
from mserve.compiler.plan import Plan, Release
from mserve.compiler.schema import PlanFormatError, plan_from_json, plan_schema, plan_to_json


def rich_plan() -> Plan:
    segments = segments_between("pqpd", [100, 200, 300, 400])
    draft = Draft(400, "d", segments, {}, Handoff("e", 409), (Replica("z", 400),))
    plan = Lowering().plan("s", "r", draft)
    return replace(plan, steps=(*plan.steps, Release("s99", "d", "t1")))


def test_plans_come_back_as_they_were() -> None:
    plan = rich_plan()
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan_from_json(plan_to_json(plan, indent=None).encode()) == plan


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("version",), 2, "version"),
        (("num_tokens",), "400", "num_tokens"),
        (("num_tokens",), 0, "num_tokens"),
        (("extra",), 1, "extra"),
        (("steps", 0, "begin"), 1.5, "begin"),
        (("steps", 0, "op"), "explode", "steps.0"),
        (("steps", 0, "colour"), "red", "colour"),
        (("steps", 0, "worker"), None, "worker"),
        (("steps", 2, "to"), "t1", "to"),
    ],
)
def test_anything_else_is_refused(path: tuple[str | int, ...], value: object, place: str) -> None:
    data = json.loads(plan_to_json(rich_plan()))
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(PlanFormatError, match=place):
        plan_from_json(json.dumps(data))


def test_what_is_left_out_is_refused_too() -> None:
    data = json.loads(plan_to_json(rich_plan()))
    del data["steps"][0]["after"]
    with pytest.raises(PlanFormatError, match="after: Field required"):
        plan_from_json(json.dumps(data))
    with pytest.raises(PlanFormatError, match="Invalid JSON"):
        plan_from_json("{")


def test_the_schema_names_every_step() -> None:
    text = json.dumps(plan_schema())
    for op in ("prep_recv", "remote_send", "start_generate", "commit", "release"):
        assert f'"{op}"' in text
    assert plan_schema()["additionalProperties"] is False
