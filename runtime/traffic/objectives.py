"""Goals and durations as an operator writes them: `ttft=500ms,tpot=50ms`, `90s`."""

import re
from difflib import get_close_matches

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.outcomes import Goals

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_GOALS = ("ttft", "tpot", "jct")


def seconds(text: str, flag: str) -> float:
    """Above zero; without a unit it is seconds. Raises ConfigError that names `flag`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or found[2] not in _UNITS_S or float(found[1]) == 0:
        raise ConfigError(f"{flag} takes a duration as 500ms, 90s or 5min, not {text!r}.")
    return float(found[1]) * _UNITS_S[found[2]]


def goals(text: str, flag: str = "--slo") -> Goals:
    """From `ttft=500ms,tpot=50ms,jct=10s`, any of them. Raises ConfigError."""
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in _GOALS or not equals:
            near = get_close_matches(name, _GOALS, n=1)
            hint = f"did you mean {near[0]}=...?" if near and name != near[0] else "as ttft=500ms."
            raise ConfigError(f"{flag} takes {', '.join(_GOALS)}, not {part!r}; {hint}")
        if name in given:
            raise ConfigError(f"{flag} is given {name} twice: leave one out.")
        given[name] = seconds(value, f"{flag} {name}")
    if not given:
        raise ConfigError(f"{flag} is empty: give a goal, as ttft=500ms.")
    return Goals(given.get("ttft"), given.get("tpot"), given.get("jct"))
