"""What a model's work costs on a device, kept from one start to the next in a file.

A worker that finds its costs there need not measure itself; what has changed since, drift.py sees.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mserve.runtime.cost import CostProfile

logger = logging.getLogger("mserve.engine")

MAX_AGE_S = 7 * 24 * 3600.0


def known_costs(folder: Path, what: str, measure: Callable[[], CostProfile]) -> CostProfile:
    """The costs of `what` (model, device, settings: whatever they depend on) as they were measured
    within the last week, or now. A folder that cannot be used costs a measurement, no more."""
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    path = folder / f"{name}.json"
    cost = _read(path)
    if cost is None:
        cost = measure()
        _write(path, cost)
    return cost


def _read(path: Path) -> CostProfile | None:
    try:
        if time.time() - path.stat().st_mtime > MAX_AGE_S:
            return None
        return msgspec.json.decode(path.read_bytes(), type=CostProfile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("%s is of no use, costs are measured anew: %s", path, error)
        return None


def _write(path: Path, cost: CostProfile) -> None:
    """Whole or not at all: workers start together."""
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(cost))
        draft.replace(path)
    except OSError as error:
        logger.warning("costs are not kept for the next start: %s", error)
