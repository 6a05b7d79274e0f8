"""`adapt` blocks as closures: what the params become, from pool-wide observations and params.

All updates of a block see the same snapshot and the params as they were. A value is clamped to its
param's range; an update that meets something missing is left out. Sets nothing itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mserve.compiler.arithmetic import clamp
from mserve.compiler.evaluate import compile_expression
from mserve.compiler.frame import Evaluator, Frame, Missing
from mserve.compiler.plan import ParamSpec
from mserve.compiler.scope import Scope
from mserve.compiler.settings import number_of
from mserve.dsl.syntax import Adapt, Expr, SettingCall


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One `adapt` block: every so many seconds these params are set anew."""

    every_s: float
    updates: tuple[tuple[ParamSpec, Evaluator], ...]

    def values(self, frame: Frame) -> dict[str, float]:
        """The new values (base units) of the params whose updates have one now."""
        found = {param.name: _value(param, update, frame) for param, update in self.updates}
        return {name: value for name, value in found.items() if value is not None}


def compile_adapt(adapt: Adapt, params: Mapping[str, ParamSpec], scope: Scope) -> Adaptation:
    return Adaptation(
        number_of(adapt.every),
        tuple(
            (params[update.name], compile_expression(_expression(update.value), scope))
            for update in adapt.updates
        ),
    )


def _expression(value: Expr | SettingCall) -> Expr:
    assert not isinstance(value, SettingCall), "the grammar says `= EXPR`"
    return value


def _value(param: ParamSpec, update: Evaluator, frame: Frame) -> float | None:
    try:
        return clamp(update(frame), param.low, param.high)
    except Missing:
        return None
