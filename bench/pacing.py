"""Makes an engine take the time of a machine that it does not run on; for bench/scheduling.py.

Runs inside the engine processes, by way of a `sitecustomize`. The model runs as it is, a very small one;
then a step lasts until the machine of $MSERVE_PACE would have done it: `BASE TOKEN SEQUENCE`, in seconds

    step = base + token * (prompt tokens computed) + sequence * (answers that get a token)

So several workers share two cores and are as fast as several machines, as long as their own work takes
less than the step. Steps that took longer all the same are counted in the folder $MSERVE_PACE_LOG.
"""

import os
import time
from pathlib import Path
from typing import Any

LOGGED_STEPS = 50  # the log is written every so many


def arm() -> None:
    """Puts the pace into the runner of this process, calibration included."""
    from mserve.runtime.engine.runner import TorchRunner

    pace = Pace(*map(float, os.environ["MSERVE_PACE"].split()))
    log = StepLog(Path(os.environ["MSERVE_PACE_LOG"]) / str(os.getpid()))
    original = TorchRunner.run

    def run(self: TorchRunner, batch: Any, on_layer: Any = None) -> Any:
        begin_s = time.perf_counter()
        output = original(self, batch, on_layer)
        wanted_s = pace.step_s(batch)
        time.sleep(max(0.0, begin_s + wanted_s - time.perf_counter()))
        log.add(wanted_s, time.perf_counter() - begin_s)
        return output

    setattr(TorchRunner, "run", run)  # noqa: B010  # mypy refuses a plain assignment to a method


class Pace:
    """The machine's cost model. All in seconds."""

    def __init__(self, base_s: float, token_s: float, sequence_s: float) -> None:
        self._base_s = base_s
        self._token_s = token_s
        self._sequence_s = sequence_s

    def step_s(self, batch: Any) -> float:
        """0 for a batch that only moves pages."""
        if not batch.computes:
            return 0.0
        num_prompt = sum(chunk.end - chunk.begin for chunk in batch.prefill)
        return self._base_s + self._token_s * num_prompt + self._sequence_s * len(batch.decode)


class StepLog:
    """A line of `steps wanted_s took_s`, rewritten now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_steps = 0
        self._wanted_s = 0.0
        self._took_s = 0.0

    def add(self, wanted_s: float, took_s: float) -> None:
        self._num_steps += 1
        self._wanted_s += wanted_s
        self._took_s += took_s
        if self._num_steps % LOGGED_STEPS == 0:
            self._path.write_text(f"{self._num_steps} {self._wanted_s} {self._took_s}")


def slowdown(folder: Path) -> float:
    """How much longer than wanted the steps of all engines took, as a factor; 1 without steps."""
    wanted_s = took_s = 0.0
    for path in folder.iterdir():
        _, wanted, took = map(float, path.read_text().split() or (0, 0, 0))
        wanted_s, took_s = wanted_s + wanted, took_s + took
    return took_s / wanted_s if wanted_s else 1.0
