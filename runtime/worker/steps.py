"""The model's part of the engine process's loop: plan a step, run it, commit it, plainly or overlapped.

    plain         plan 1 | run 1 | commit 1 | plan 2 | run 2 | commit 2
    overlapped    plan 1 | plan 2, commit 1 | plan 3, commit 2              on the host
                         | run 1            | run 2            | run 3      on the device

Owns who pays for a step that fails. Knows neither sockets nor the HTTP process.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import (
    Batch,
    LaunchedStep,
    LaunchingRunner,
    ModelRunner,
    StepOutOfMemory,
)
from mserve.runtime.engine.drift import CostDrift
from mserve.runtime.errors import EngineFailure, RequestError
from mserve.runtime.worker.service import WorkerService

logger = logging.getLogger("mserve.engine")

# What a request can make torch or numpy raise. Anything else is ours, and ends the process.
RUNNER_ERRORS = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


class Steps:
    """The plain loop's: each is over before the next one is planned."""

    def __init__(
        self,
        service: WorkerService,
        runner: ModelRunner,
        cost: CostProfile,
        clock: Callable[[], float],
        *,
        waits: bool = True,
    ) -> None:
        """`waits`: a step is over when the runner is; else only if something was sampled."""
        self.drift = CostDrift(cost)
        self._waits = waits
        self._service = service
        self._runner = runner
        self._clock = clock

    def step(self) -> bool:
        """False if there was nothing to do."""
        batch = self._service.plan(self._clock())
        if batch is not None:
            self._run(batch)
        return batch is not None

    def _run(self, batch: Batch) -> None:
        hook = self._layer_done if self._service.wants_layers else None
        began = self._clock()
        try:
            output = self._runner.run(batch, hook)
        except RUNNER_ERRORS as error:
            self._abandon(batch, error)
        else:
            now = self._clock()
            self.drift.observe(batch, now - began, is_over=self._waits or bool(batch.sampled))
            self._service.commit(batch, output, now)

    def _layer_done(self, layer: int) -> None:
        self._service.layer_done(layer, self._clock())
        self._service.progress(self._clock())

    def _abandon(self, batch: Batch, error: Exception) -> None:
        logger.error("the model could not run a batch", exc_info=error)
        is_full = isinstance(error, StepOutOfMemory)
        culprits = _newest(batch) if is_full else self._culprits(batch, error)
        self._service.abandon(batch, culprits, self._clock())

    def _culprits(self, batch: Batch, error: Exception) -> dict[str, RequestError]:
        """Whose plans a failed batch ends: those that fail alone too, else all of them."""
        found: dict[str, RequestError] = {}
        for key, part in _parts(batch):
            try:
                self._runner.run(part)
            except RUNNER_ERRORS as alone:
                found[key] = EngineFailure(f"The model could not run this request: {alone}")
        return found or _everyone(batch, error)


@dataclass(frozen=True, slots=True)
class _Running:
    batch: Batch
    step: LaunchedStep
    launched_s: float


class OverlappedSteps(Steps):
    """The device is given the next step before this one's tokens are waited for."""

    def __init__(
        self,
        service: WorkerService,
        runner: LaunchingRunner,
        cost: CostProfile,
        clock: Callable[[], float],
        *,
        waits: bool = True,
    ) -> None:
        super().__init__(service, runner, cost, clock, waits=waits)
        self._launching = runner
        self._running: _Running | None = None
        self._last_end_s = 0.0

    def step(self) -> bool:
        """False if there was nothing to do and nothing is running. A step whose layers others wait
        for is run plainly."""
        running, self._running = self._running, None
        batch = self._service.plan(self._clock())
        if batch is not None and not self._service.wants_layers:
            self._run_ahead(batch, running)
            return True
        is_over = running is None or self._finish(running)
        if batch is not None and is_over:
            self._run(batch)
        return batch is not None or running is not None

    def _run_ahead(self, batch: Batch, running: _Running | None) -> None:
        now = self._clock()
        try:
            step = self._launching.launch(batch, None if running is None else running.step)
        except RUNNER_ERRORS as error:
            if running is None or self._finish(running):
                self._abandon(batch, error)
            return
        if running is None or self._finish(running):
            self._running = _Running(batch, step, now)

    def _finish(self, running: _Running) -> bool:
        """False if the step failed, and with it the one planned on it. A device that fails after it
        took a step does not say by whose fault: all of the batch end."""
        try:
            output = running.step.result()
        except RUNNER_ERRORS as error:
            logger.exception("the device could not run a batch")
            everyone = _everyone(running.batch, error)
            self._service.abandon(running.batch, everyone, self._clock())
            return False
        now = self._clock()
        self.drift.observe(
            running.batch,
            now - max(running.launched_s, self._last_end_s),
            is_over=self._waits or bool(running.batch.sampled),
        )
        self._last_end_s = now
        self._service.commit(running.batch, output, now)
        return True


def _everyone(batch: Batch, error: Exception) -> dict[str, RequestError]:
    failure = EngineFailure(f"The model could not run: {error}")
    return {key: failure for key, _ in _parts(batch)}


def _newest(batch: Batch) -> dict[str, RequestError]:
    """Those that came last and are a quarter of the batch's rows: the older ones may fit without
    them, and a few steps settle how many do. Alone each would, which tells nothing."""
    rows = [(chunk.end - chunk.begin, chunk.sequence) for chunk in batch.prefill]
    rows += [(1, sequence) for sequence in batch.decode]
    total, dropped = sum(count for count, _ in rows), 0
    found: dict[str, RequestError] = {}
    for count, sequence in sorted(rows, key=lambda row: row[1].order, reverse=True):
        if 4 * dropped >= total:
            break
        found[sequence.key] = EngineFailure(
            "The device had no memory left for this request beside older ones."
        )
        dropped += count
    return found


def _parts(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """The batch one sequence at a time."""
    for chunk in batch.prefill:
        yield chunk.sequence.key, Batch((chunk,), ())
    for sequence in batch.decode:
        yield sequence.key, Batch((), (sequence,))
