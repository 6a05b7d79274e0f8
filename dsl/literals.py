"""Literals as written to values in base units: tokens, seconds, bytes, plain ratios, texts.

The suffixes here are those of the grammar's terminals; a test holds the two together.
"""

import re

from mserve.dsl.syntax import Unit

# Value of `1<suffix>` as (numerator, denominator): one rounding, so that 50ms is exactly 0.05.
_SCALES: dict[str, tuple[Unit, int, int]] = {
    "": (Unit.NONE, 1, 1),
    "%": (Unit.RATIO, 1, 100),
    "us": (Unit.DURATION, 1, 1_000_000),
    "ms": (Unit.DURATION, 1, 1000),
    "s": (Unit.DURATION, 1, 1),
    "min": (Unit.DURATION, 60, 1),
    "h": (Unit.DURATION, 3600, 1),
    "B": (Unit.BYTES, 1, 1),
    "KiB": (Unit.BYTES, 1 << 10, 1),
    "MiB": (Unit.BYTES, 1 << 20, 1),
    "GiB": (Unit.BYTES, 1 << 30, 1),
    "TiB": (Unit.BYTES, 1 << 40, 1),
}

SUFFIXES = tuple(suffix for suffix in _SCALES if suffix)

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)(.*)")
_ESCAPE = re.compile(r'\\(["\\])')


def number_value(text: str) -> tuple[float, Unit]:
    """`50ms` -> (0.05, DURATION), `10%` -> (0.1, RATIO), `64GiB` -> (68719476736.0, BYTES)."""
    match = _NUMBER.fullmatch(text)
    assert match is not None, f"the grammar let {text!r} through as a number"
    digits, suffix = match.groups()
    unit, numerator, denominator = _SCALES[suffix]
    return float(digits) * numerator / denominator, unit


def text_value(text: str) -> str:
    """The contents of a text literal, without quotes and escapes."""
    return _ESCAPE.sub(r"\1", text[1:-1])
