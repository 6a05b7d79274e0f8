"""Plays a schedule of faults on the workers of a simulation, and keeps what happened."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.faults import Kill, Restart, TimedFault
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.results import Happened
from mserve.runtime.simulator.workers import Workers
from mserve.runtime.traffic.report import seconds_text

_SAME_S = 1e-6  # between times that were one before they were rounded


class Outages:
    """`faults` are in the order of their times, and may be endless."""

    def __init__(
        self,
        faults: Iterable[TimedFault],
        workers: Workers,
        loop: VirtualLoop,
        clock: VirtualClock,
    ) -> None:
        self._faults = faults
        self._workers = workers
        self._loop = loop
        self._clock = clock
        self._num_deaths: Counter[str] = Counter()
        self.happened: list[Happened] = []

    @asynccontextmanager
    async def played(self) -> AsyncIterator[None]:
        """Times count from the body's beginning, and with its end the faults end. They are no
        progress: whether a worker comes back some day keeps no run going."""
        playing = self._loop.start_daemon(self._play(), "faults")
        try:
            yield
        finally:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing

    async def _play(self) -> None:
        begin_s = self._clock.now()
        async with asyncio.TaskGroup() as returns:
            for fault in self._faults:
                await self._clock.sleep(max(0.0, begin_s + fault.at_s - self._clock.now()))
                has_died = self._kill(fault.worker)
                if isinstance(fault, Restart):
                    returns.create_task(self._revive(fault.worker, 0.0))
                elif has_died and fault.repair_s < math.inf:
                    returns.create_task(self._revive(fault.worker, fault.repair_s))

    def _kill(self, worker: str) -> bool:
        has_died = self._workers.kill(worker)
        if has_died:
            self._num_deaths[worker] += 1
            self.happened.append(Happened("kill", worker, self._clock.now()))
        return has_died

    async def _revive(self, worker: str, delay_s: float) -> None:
        """From this death: one that was back before and has died again is not repaired."""
        death = self._num_deaths[worker]
        await self._clock.sleep(delay_s)
        if self._num_deaths[worker] == death and await self._workers.revive(worker):
            self.happened.append(Happened("restart", worker, self._clock.now()))


def never_came(fault: TimedFault, happened: Sequence[Happened], end_s: float) -> str:
    """Why a fault that was asked for was not to be seen in a run that ended at `end_s`; "" if it was.

    Times are on the clock of `happened`, which begins with the traffic."""
    what = "kill" if isinstance(fault, Kill) else "restart"
    came = (
        each.what == what and each.worker == fault.worker and each.at_s >= fault.at_s - _SAME_S
        for each in happened
    )
    if any(came):
        return ""
    asked = f"{what} {fault.worker} at {seconds_text(fault.at_s)}"
    if fault.at_s >= end_s:
        return f"{asked} never came: the last answer ended at {seconds_text(end_s)}"
    if what == "kill":
        return f"{asked} changed nothing: it was dead already"
    return f"{asked} never came: it was not back when the last answer ended"
