"""Faults of a simulation as an operator writes them: `kill decode-1 at 30s`. Data only."""

import re
from dataclasses import dataclass

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.objectives import seconds

_FAULT = re.compile(r"kill\s+(\S+)\s+at\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker dies at once, `at_s` after the traffic has begun, and does not come back."""

    worker: str
    at_s: float


def fault(text: str) -> Kill:
    """Raises ConfigError."""
    found = _FAULT.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"--fault takes 'kill WORKER at TIME', as 'kill decode-1 at 30s', not {text!r}."
        )
    return Kill(found[1], seconds(found[2], "--fault"))
