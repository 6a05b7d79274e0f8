"""Makes an engine take the time of a machine that it does not run on; for bench/paced_cluster.py.

Runs inside the engine processes, by way of a `sitecustomize`. The model runs as it is, a very small one;
then a step, and each layer whose KV goes out, lasts until the machine of $MSERVE_PACE would have done it:
`BASE TOKEN SEQUENCE`, in seconds

    step = base + token * (prompt tokens computed) + sequence * (answers that get a token)

So several workers share two cores and are as fast as several machines, as long as their own work takes
less than the step. How long steps took all the same is kept in the folder $MSERVE_PACE_LOG. KV that goes
out while it is computed does so at the times at which that machine would have its layers.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOGGED_STEPS = 10  # the log is written every so many


def arm() -> None:
    """Puts the pace into the runner of this process, calibration included."""
    from mserve.runtime.engine.runner import TorchRunner

    pace = Pace(*map(float, os.environ["MSERVE_PACE"].split()))
    log = StepLog(Path(os.environ["MSERVE_PACE_LOG"]) / str(os.getpid()))
    original = TorchRunner.run

    def run(self: TorchRunner, batch: Any, on_layer: Any = None) -> Any:
        begin_s = time.perf_counter()
        wanted_s = pace.step_s(batch)

        def paced_layer(layer: int) -> None:
            """KV must not leave before that machine would have computed it."""
            sleep_until(begin_s + wanted_s * (layer + 1) / self.kv.num_layers)
            on_layer(layer)

        output = original(self, batch, on_layer and paced_layer)
        sleep_until(begin_s + wanted_s)
        log.add(wanted_s, time.perf_counter() - begin_s)
        return output

    setattr(TorchRunner, "run", run)  # noqa: B010  # mypy refuses a plain assignment to a method


def sleep_until(when_s: float) -> None:
    time.sleep(max(0.0, when_s - time.perf_counter()))


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
        num_prompt: int = sum(chunk.end - chunk.begin for chunk in batch.prefill)
        return self._base_s + self._token_s * num_prompt + self._sequence_s * len(batch.decode)


@dataclass(frozen=True, slots=True)
class Steps:
    """How long steps were to take and took. All in seconds."""

    wanted_s: float = 0.0
    took_s: float = 0.0

    def since(self, before: "Steps") -> "Steps":
        return Steps(self.wanted_s - before.wanted_s, self.took_s - before.took_s)

    @property
    def slowdown(self) -> float:
        """1 where the machine kept to its pace, or had nothing to do."""
        return self.took_s / self.wanted_s if self.wanted_s else 1.0


class StepLog:
    """The sums of one engine in a file, rewritten now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_steps = 0
        self._sum = Steps()

    def add(self, wanted_s: float, took_s: float) -> None:
        self._num_steps += 1
        self._sum = Steps(self._sum.wanted_s + wanted_s, self._sum.took_s + took_s)
        if self._num_steps % LOGGED_STEPS == 0:
            draft = self._path.with_suffix(".draft")
            draft.write_text(f"{self._sum.wanted_s} {self._sum.took_s}")
            draft.rename(self._path)


def steps_of(folder: Path) -> Steps:
    """Of all engines together, so far."""
    logs = [path for path in folder.iterdir() if not path.suffix]
    sums = [Steps(*map(float, path.read_text().split())) for path in logs]
    return Steps(sum(each.wanted_s for each in sums), sum(each.took_s for each in sums))
