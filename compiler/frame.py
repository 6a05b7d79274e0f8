"""One decision in progress: what its closures read and remember.

Owns the memo of lets and predictions of a single request; knows neither expressions nor routes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mserve.compiler.observe import Observations
from mserve.compiler.plan import Choice, Plan, WorkerName

Value = Any  # number, bool, text, worker (its name) or pool (a sequence of names)
Evaluator = Callable[["Frame"], Value]


class Missing(Exception):
    """A choice or aggregate over no worker; whatever uses it is missing, too."""


class _Mark:
    """A value no expression has; compared by identity."""


UNSET = _Mark()
MISSING = _Mark()


class Frame:
    """The state of one decision. Closures index `lets` and `slots` by numbers given at compile time.

    `slots` hold the comprehension variables: every comprehension of a file has its own, so a let
    that is evaluated in the middle of another's loop leaves that loop's variable alone.
    """

    __slots__ = (
        "choices",
        "forecast",
        "forecasts",
        "guards",
        "lets",
        "params",
        "plans",
        "pools",
        "slots",
        "turns",
        "view",
    )

    def __init__(
        self,
        view: Observations,
        params: Mapping[str, float],
        num_lets: int,
        num_slots: int,
        forecast: Callable[["Frame", str], float],
    ) -> None:
        self.view = view
        self.params = params
        self.forecast = forecast
        self.lets: list[Value] = [UNSET] * num_lets
        self.slots: list[Value] = [None] * num_slots
        self.pools: dict[str, Sequence[WorkerName]] = {}
        self.choices: list[Choice] = []  # without the names of their lets
        self.turns: list[int] = []  # places of the `next` that were asked
        self.guards: list[tuple[str, bool | None]] = []  # routes tried; None: something missing
        self.forecasts: dict[str, float] = {}  # time to first token of routes, in seconds
        self.plans: dict[str, Plan] = {}  # of routes that a forecast was made for

    def workers(self, pool: str) -> Sequence[WorkerName]:
        workers = self.pools.get(pool)
        if workers is None:
            workers = self.pools[pool] = self.view.workers(pool)
        return workers


def memoise(index: int, evaluate: Evaluator) -> Evaluator:
    """The let with this index: evaluated at most once per decision; a missing one stays missing."""

    def read(frame: Frame) -> Value:
        value = frame.lets[index]
        if value is UNSET:
            try:
                value = evaluate(frame)
            except Missing:
                value = MISSING
            frame.lets[index] = value
        if value is MISSING:
            raise Missing
        return value

    return read
