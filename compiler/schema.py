"""Plans as JSON and back, strictly: unknown fields, wrong types and other versions are refused.

The one place of the compiler that uses pydantic; the models are made from the dataclasses of
plan.py, which stay the only description.
"""

from dataclasses import asdict, fields
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mserve.compiler.plan import (
    PLAN_VERSION,
    Commit,
    Plan,
    PrepRecv,
    Release,
    RemoteSend,
    StartGenerate,
    Step,
)


class PlanFormatError(Exception):
    """A text that is no plan of this version; the message says what is wrong where."""


_STEPS: dict[str, type[Step]] = {
    "prep_recv": PrepRecv,
    "remote_send": RemoteSend,
    "start_generate": StartGenerate,
    "commit": Commit,
    "release": Release,
}
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


def plan_to_json(plan: Plan, indent: int | None = 2) -> str:
    return _model()(**_plain(plan)).model_dump_json(indent=indent)


def plan_from_json(text: str | bytes) -> Plan:
    """Raises PlanFormatError."""
    try:
        model = _model().model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise PlanFormatError(f"{where}: {first['msg']}") from error
    values = model.model_dump()
    steps = tuple(_STEPS[step["op"]](**step) for step in values.pop("steps"))
    return Plan(**values, steps=steps)


def plan_schema() -> dict[str, Any]:
    """The JSON schema of plans."""
    return _model().model_json_schema()


def _plain(plan: Plan) -> dict[str, Any]:
    return {**asdict(plan), "steps": tuple(asdict(step) for step in plan.steps)}


@cache
def _model() -> type[BaseModel]:
    steps = reduce(or_, [_step_model(step) for step in _STEPS.values()])
    members: dict[str, Any] = {
        "strategy": (str, ...),
        "route": (str, ...),
        "num_tokens": (Annotated[int, Field(ge=1)], ...),
        "steps": (tuple[Annotated[steps, Field(discriminator="op")], ...], ...),  # type: ignore[valid-type]  # made at run time
        "version": (Literal[PLAN_VERSION], ...),
    }
    return create_model("Plan", __config__=_STRICT, __doc__=Plan.__doc__, **members)


def _step_model(step: type[Step]) -> Any:
    hints = get_type_hints(step)
    members: dict[str, Any] = {field.name: (hints[field.name], ...) for field in fields(step)}
    return create_model(step.__name__, __config__=_STRICT, __doc__=step.__doc__, **members)
