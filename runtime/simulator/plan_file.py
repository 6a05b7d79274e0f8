"""The plans of a simulation's requests: kept as they end, by request, and as a file of JSON lines.

A line is what a router answers for `GET /v1/plans/{id}`; requests are named by their number in the
traffic, from 0.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mserve.runtime.errors import ConfigError
from mserve.runtime.router.plans import OPEN_STATES, PlanRecord, plan_json
from mserve.runtime.simulator.requests import request_id


class PlanFile:
    """A plan is written when its request ends; one that still copies KV, when the file is closed."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self._copying: list[PlanRecord] = []
        try:
            self._out: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None

    def __enter__(self) -> "PlanFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for record in self._copying:
            self._write(record)
        self._out.close()

    def add(self, record: PlanRecord) -> None:
        steps = (step for attempt in record.attempts for step in attempt.steps.values())
        if any(step.state in OPEN_STATES for step in steps):
            self._copying.append(record)
        else:
            self._write(record)

    def _write(self, record: PlanRecord) -> None:
        self._out.write(json.dumps(plan_json(record)) + "\n")


class PlanShelf:
    """Keeps the plans of some requests."""

    def __init__(self, numbers: Collection[int]) -> None:
        self._wanted = {request_id(number): number for number in numbers}
        self._records: dict[int, PlanRecord] = {}

    def add(self, record: PlanRecord) -> None:
        number = self._wanted.get(record.request_id)
        if number is not None:
            self._records[number] = record

    def plan(self, number: int) -> dict[str, Any]:
        """As JSON values. Raises ConfigError for a request that there was not."""
        if number not in self._records:
            raise ConfigError(
                f"There was no request {number}: they are counted from 0, and there were fewer."
            )
        return plan_json(self._records[number])


def request_number(text: str) -> int:
    """From `17` or `request-17`. Raises ConfigError."""
    digits = text.strip().removeprefix("request-")
    if not (digits.isascii() and digits.isdecimal()):
        raise ConfigError(
            f"Requests of a simulation are numbered from 0 in the order of the traffic: 17, not {text!r}."
        )
    return int(digits)


def read_plan(path: Path, text: str) -> dict[str, Any]:
    """The plan of one request, by its number or its plan's id. Raises ConfigError."""
    wanted, num_plans = _wanted(text), 0
    for plan in _plans(path):
        if plan["request_id"] == wanted or plan["id"] == text:
            return plan
        num_plans += 1
    raise ConfigError(f"{path} has no request {text}: it has {num_plans:,}, counted from 0.")


def _wanted(text: str) -> str:
    try:
        return request_id(request_number(text))
    except ConfigError:
        return text  # a plan's id


def _plans(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                plan = json.loads(line)
                if not {"id", "request_id", "attempts"} <= plan.keys():
                    raise ValueError
                yield plan
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, AttributeError):
        raise ConfigError(
            f"{path} is no file of plans: `mserve simulate ... --plans FILE` writes one."
        ) from None
