"""Goals and durations as an operator writes them: `ttft=500ms,tpot=50ms`, `90s`."""

import re

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.outcomes import Goals
from mserve.runtime.traffic.suggestions import near_miss

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_GOALS = ("ttft", "tpot", "jct")


def seconds(text: str, flag: str, *, may_be_0: bool = False) -> float:
    """With its unit, and above zero unless it `may_be_0`. Raises ConfigError that names `flag`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or found[2] not in {"", *_UNITS_S}:
        raise ConfigError(f"{flag} takes a duration as 500ms, 90s or 5min, not {text!r}.")
    number, unit = found.groups()
    if float(number) == 0:
        if may_be_0:
            return 0.0
        raise ConfigError(f"{flag} must be above 0, not {text.strip()}.")
    if not unit:
        raise ConfigError(f"{flag}: {number} what? Write {number}ms or {number}s.")
    return float(number) * _UNITS_S[unit]


def goals(text: str, flag: str = "--slo") -> Goals:
    """From `ttft=500ms,tpot=50ms,jct=10s`, any of them. Raises ConfigError."""
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in _GOALS or not equals:
            near = near_miss(name, _GOALS)
            hint = f"did you mean {near}=...?" if near and name != near else "as ttft=500ms."
            raise ConfigError(f"{flag} takes {', '.join(_GOALS)}, not {part!r}; {hint}")
        if name in given:
            raise ConfigError(f"{flag} is given {name} twice: leave one out.")
        given[name] = seconds(value, f"{flag} {name}")
    if not given:
        raise ConfigError(f"{flag} is empty: give a goal, as ttft=500ms.")
    return Goals(given.get("ttft"), given.get("tpot"), given.get("jct"))
