"""The constant parts of a strategy: params' ranges, pools' settings and limits as plain values.

Also says, in sentences, what of the language the runtime cannot execute yet.
"""

from collections.abc import Iterator

from mserve.compiler.plan import LimitsSpec, ParamSpec, PoolSpec, SloSpec
from mserve.dsl.constants import arithmetic
from mserve.dsl.syntax import (
    Binary,
    Boolean,
    Expr,
    Name,
    Number,
    Pool,
    Setting,
    SettingCall,
    Strategy,
    Text,
    Unary,
)


class ConstantError(Exception):
    """An expression that is no constant where the language wants one."""


def param_specs(strategy: Strategy) -> dict[str, ParamSpec]:
    return {
        param.name: ParamSpec(
            param.name,
            number_of(param.default),
            number_of(param.low),
            number_of(param.high),
        )
        for param in strategy.params
    }


def pool_specs(strategy: Strategy) -> tuple[PoolSpec, ...]:
    return tuple(_pool_spec(pool) for pool in strategy.pools)


def _pool_spec(pool: Pool) -> PoolSpec:
    settings = settings_of(pool.settings)
    workers = settings.pop("workers", 1)
    gpus = settings.pop("gpus", 1)
    assert isinstance(workers, (int, float)), "the checker wants a number of workers"
    assert isinstance(gpus, (int, float)), "the checker wants a number of gpus"
    return PoolSpec(pool.name, int(workers), int(gpus), settings)


def limits_of(strategy: Strategy) -> LimitsSpec:
    values = {s.name: number_of(s.value) for limits in strategy.limits for s in limits.limits}
    default = LimitsSpec()
    return LimitsSpec(
        timeout_s=values.get("timeout", default.timeout_s),
        retries=int(values.get("retries", default.retries)),
    )


def slo_of(strategy: Strategy) -> SloSpec:
    values = {goal.name: number_of(goal.value) for slo in strategy.slos for goal in slo.goals}
    return SloSpec(ttft_s=values.get("ttft"), tpot_s=values.get("tpot"))


def settings_of(settings: tuple[Setting, ...]) -> dict[str, object]:
    return {setting.name: _setting_value(setting.value) for setting in settings}


def _setting_value(value: Expr | SettingCall) -> object:
    """A number, or `{"kind": word, ...}`; the argument of `peer(decode)` is its `target`."""
    if isinstance(value, Name):
        return {"kind": value.name}
    if isinstance(value, SettingCall):
        args = {arg.name or "target": _argument(arg.value) for arg in value.args}
        return {"kind": value.name, **args}
    return constant(value)


def _argument(value: Expr | SettingCall) -> object:
    return value.name if isinstance(value, Name) else _setting_value(value)


def number_of(expr: Expr | SettingCall) -> float:
    value = constant(expr)
    if isinstance(value, str):
        raise ConstantError(f"a number is wanted here, not the text '{value}'")
    return value


def constant(expr: Expr | SettingCall) -> float | bool | str:
    """The value of a constant expression. Raises ConstantError for any other."""
    if isinstance(expr, (Number, Boolean, Text)):
        return expr.value
    if isinstance(expr, Unary) and expr.op == "-":
        return -number_of(expr.operand)
    if isinstance(expr, Binary):
        value = arithmetic(expr.op, number_of(expr.left), number_of(expr.right))
        if value is not None:
            return value
    raise ConstantError("only a constant can stand here")


# --- what the runtime cannot execute yet -------------------------------------------------------


def unsupported_features(pools: tuple[PoolSpec, ...]) -> tuple[str, ...]:
    """One sentence for each part of the strategy that the runtime would have to ignore."""
    return tuple(_unsupported_settings(pools))


def _unsupported_settings(pools: tuple[PoolSpec, ...]) -> Iterator[str]:
    for pool in pools:
        for name, value in pool.settings.items():
            kind = value.get("kind") if isinstance(value, dict) else None
            if (name, kind) not in _SUPPORTED_SETTINGS:
                what = f"{name} = {kind}" if kind else name
                yield f"Pool '{pool.name}': `{what}` is not executed yet{_INSTEAD.get(name, '')}."


_INSTEAD = {
    "prefetch": ": KV comes back from host memory in the step that needs it, as with `prefetch = none`"
}
_SUPPORTED_SETTINGS = frozenset(
    {
        ("queue", "fcfs"),
        ("queue", "deadline"),
        ("queue", "hit_ratio"),
        ("queue", "priority"),
        ("batch", "continuous"),
        ("batch", "aligned"),
        ("prefetch", "none"),
        ("prefix_cache", "lru"),
        ("prefix_cache", "none"),
        ("host_cache", None),
    }
)
