"""What --sweep and --set say: a param's value, or several values of a param or of the traffic's rate.

Knows no runs: cases.py makes them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy

RATE = "rate"  # of the traffic, requests per second; goes before a param of that name
_FORM = "PARAM=LOW..HIGH:N"
_EXAMPLE = "tail=0%..50%:6 or rate=20..120:6"


@dataclass(frozen=True, slots=True)
class Point:
    """A value of what is swept, in base units, and as it is spelled."""

    param: str
    value: float
    text: str

    @property
    def name(self) -> str:
        """`tail=20%`; empty where nothing is swept."""
        return f"{self.param}={self.text}" if self.param else ""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Points in their order; of a rate they ascend."""

    param: str
    points: tuple[Point, ...]

    @property
    def texts(self) -> list[str]:
        return [point.text for point in self.points]

    @property
    def axis(self) -> str:
        return "requests per second" if self.is_of_rate else self.param

    @property
    def is_of_rate(self) -> bool:
        return self.param == RATE


NO_SWEEP = Sweep("", (Point("", 0.0, ""),))


def add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sweep",
        metavar=_FORM,
        help="N values side by side, of a param or of the traffic's rate: tail=0%%..50%%:6,"
        " rate=20..120:6",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="change a param, within its range: tail=20%%",
    )


def set_params(strategy: "CompiledStrategy", given: Sequence[str]) -> None:
    """Raises ConfigError for an unknown param, or a value out of its range."""
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        strategy.set_param(name, _value(strategy, "--set", name, value))


def has_param(strategy: "CompiledStrategy", given: str) -> bool:
    return given.partition("=")[0].strip() in strategy.params


def swept(arguments: argparse.Namespace, strategies: "Mapping[str, CompiledStrategy]") -> Sweep:
    """The values, evenly spread: of the rate, or of a param that all of these have. Raises
    ConfigError."""
    from mserve.runtime.errors import ConfigError

    if not arguments.sweep:
        return NO_SWEEP
    param, low, high, count = _parts(arguments.sweep)
    if param == RATE:
        points = _rates(arguments, low, high, count)
    else:
        _check_all_have(param, strategies)
        bounds = [
            tuple(_value(each, "--sweep", param, text) for text in (low, high))
            for each in strategies.values()
        ]
        first = next(iter(strategies.values()))
        points = [
            Point(param, value, first.spell(param, value))
            for value in _spread(bounds[0][0], bounds[0][1], count)
        ]
    if len({point.text for point in points}) < count:
        raise ConfigError(f"--sweep {arguments.sweep}: some of its {count} values look alike.")
    return Sweep(param, tuple(points))


def _parts(text: str) -> tuple[str, str, str, int]:
    """Param, both ends, number of values. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    param, _, rest = (part.strip() for part in text.partition("="))
    bounds, _, count = rest.rpartition(":")
    low, dots, high = (part.strip() for part in bounds.partition(".."))
    if not dots or not low or not high or not count.isdecimal() or int(count) < 2:
        raise ConfigError(
            f"--sweep takes {_FORM} with N of at least 2, as {_EXAMPLE}, not {text!r}."
        )
    return param, low, high, int(count)


def _spread(low: float, high: float, count: int) -> list[float]:
    step = (high - low) / (count - 1)
    return [*(low + step * index for index in range(count - 1)), high]


def _rates(arguments: argparse.Namespace, low: str, high: str, count: int) -> list[Point]:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    for flag in (RATE, "speed"):
        if getattr(arguments, flag) is not None:
            raise ConfigError(f"--sweep rate and --{flag} both set when requests arrive: give one.")
    try:
        first, last = sorted([float(low), float(high)])
    except ValueError:
        first = last = 0.0
    if not 0 < first <= last < float("inf"):
        raise ConfigError(
            f"--sweep rate takes requests per second above 0, as rate=20..120:6, not {low}..{high}."
        )
    texts = [f"{rate:.4g}" for rate in _spread(first, last, count)]
    return [Point(RATE, float(text), text) for text in texts]


def _check_all_have(param: str, strategies: "Mapping[str, CompiledStrategy]") -> None:
    """Of several strategies; of one, `_value` says more. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    without = [name for name, each in strategies.items() if param not in each.params]
    if without and len(strategies) > 1:
        common = set[str].intersection(*(set(each.params) for each in strategies.values()))
        has = f"they all have {', '.join(sorted(common))}" if common else "they have none in common"
        raise ConfigError(
            f"--sweep {param}: {', '.join(without)} {'has' if len(without) == 1 else 'have'} no such"
            f" param; {has}, and --sweep rate=LOW..HIGH:N is for the traffic's rate."
        )


def _value(strategy: "CompiledStrategy", flag: str, param: str, text: str) -> float:
    """In base units. Raises ConfigError that names `flag`."""
    from mserve.compiler.givens import GivenError, situation_from_text
    from mserve.runtime.errors import ConfigError

    try:
        return situation_from_text(strategy, params=[f"{param}={text}"]).params[param]
    except GivenError as error:
        said = str(error)
        if said.startswith("--set"):
            said = flag + said.removeprefix("--set")
        raise ConfigError(said if said.endswith("?") else f"{said}.") from None
