"""Values in the language's own words: `decode[0]`, `200ms`, `10%`, `missing`.

Knows units as types (mserve.dsl.types), nothing of expressions and decisions.
"""

import math

from mserve.compiler.frame import Value
from mserve.dsl.types import BYTES, DURATION, UNKNOWN, Kind, Type

_BYTES = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0))


def spell(value: Value, unit: Type = UNKNOWN, digits: int = 4) -> str:
    """As it could be written in a strategy; a worker's name `decode-0` is `decode[0]`.

    Without a known unit a number is bare. `digits` are those that count.
    """
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return _number(float(value), unit, digits)
    if isinstance(value, str):
        return f'"{value}"' if unit.kind is Kind.TEXT else _worker(value)
    return "[" + ", ".join(map(spell, value)) + "]"


def _worker(name: str) -> str:
    pool, dash, index = name.rpartition("-")
    return f"{pool}[{index}]" if dash and index.isdigit() else name


def _number(value: float, unit: Type, digits: int) -> str:
    if not math.isfinite(value):
        return "infinite" if value > 0 else "-infinite"
    if unit.exponents == DURATION.exponents:
        return _duration(value, digits)
    if unit.exponents == BYTES.exponents:
        name, scale = next((u for u in _BYTES if abs(value) >= u[1]), _BYTES[-1])
        return _plain(value / scale, digits) + name
    if unit.is_ratio and abs(value) <= 1:
        return _plain(value * 100, digits) + "%"
    return _plain(value, digits + 2)


def _duration(seconds: float, digits: int) -> str:
    if seconds == 0:
        return "0s"
    if seconds % 60 == 0:
        return _plain(seconds / 60, digits) + "min"
    if abs(seconds) >= 1:
        return _plain(seconds, digits) + "s"
    if abs(seconds) >= 1e-3:
        return _plain(seconds * 1e3, digits) + "ms"
    return _plain(seconds * 1e6, digits) + "us"


def _plain(value: float, digits: int) -> str:
    """Without an exponent: the language has none."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
