"""Numbers as other languages write them, and how they are written here: `5sec`, `1e6`, `4k`, `64GB`."""

import re
from decimal import Decimal

from mserve.dsl.diagnostics import Diagnostic, Edit
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.rules.form import syntax
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span

NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)([eE][+-]?[0-9]+|(?:[A-Za-z0-9_%]|\.[0-9])+)")

_EXPONENT = re.compile(r"[eE][+-]?[0-9]{1,2}")
_SPELLED_UNITS = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("msec", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    "%%": "%",
}
UNIT_WORDS = {
    **_SPELLED_UNITS,
    **dict.fromkeys(("token", "tokens", "requests", "workers"), ""),
    "percent": "%",
}
"""Words behind a number, apart from it, and the units that they mean."""
_MEANT_UNITS = {  # near, but not the same
    "m": "min",
    **dict.fromkeys(("kb", "ki"), "KiB"),
    **dict.fromkeys(("mb", "mi"), "MiB"),
    **dict.fromkeys(("g", "gb", "gi"), "GiB"),
    **dict.fromkeys(("t", "tb", "ti"), "TiB"),
}
_FACTORS = {"k": (1000, "KiB"), "K": (1000, "KiB"), "M": (1_000_000, "MiB")}
_UNITS = "units are " + ", ".join(f"`{each}`" for each in SUFFIXES)


def bad_number(match: re.Match[str]) -> Diagnostic:
    digits, suffix = match.groups()
    span = Span(*match.span())
    if suffix.startswith("."):
        hint = "workers are declared as a pool, without addresses: `pool decode { workers = 4 }`"
        message = "a number has one decimal point"
        return syntax(span, message, help=hint if suffix.count(".") > 1 else "")
    if suffix.startswith("_"):
        plain = match.group().replace("_", "")
        fix = (Edit(span, plain),) if plain.isdigit() else ()
        return syntax(span, "digits are written without `_`", help=f"write `{plain}`", fix=fix)
    if _EXPONENT.fullmatch(suffix):
        written = f"{Decimal(match.group()):f}"
        fix = (Edit(span, written),)
        return syntax(span, "numbers have no exponents", help=f"write `{written}`", fix=fix)
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,12}", match.group()):
        written = str(int(match.group(), 16))
        return syntax(span, "numbers are decimal", help=f"write `{written}`")
    return _bad_unit(span, digits, suffix)


def _bad_unit(span: Span, digits: str, suffix: str) -> Diagnostic:
    spelled = _SPELLED_UNITS.get(suffix.lower())
    if spelled is not None:
        written = digits + spelled
        message, hint = f"the unit `{suffix}` is written `{spelled}`", f"write `{written}`"
        return syntax(span, message, help=hint, fix=(Edit(span, written),))
    message = f"unknown unit `{suffix}`"
    if suffix in _FACTORS:
        factor, unit = _FACTORS[suffix]
        hint = f"for tokens write `{Decimal(digits) * factor:f}`, for bytes `{digits}{unit}`"
        return syntax(span, message, help=hint)
    meant = _MEANT_UNITS.get(suffix.lower()) or nearest(suffix, SUFFIXES)
    hint = _UNITS if meant is None else f"did you mean `{digits}{meant}`? {_UNITS}"
    return syntax(span, message, help=hint)
