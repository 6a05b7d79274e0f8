"""Plays a schedule of faults on the workers of a simulation, and keeps what happened."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.faults import Restart, TimedFault
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.results import Happened
from mserve.runtime.simulator.workers import Workers


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
            self.happened.append(Happened("kill", worker, self._clock.now()))
        return has_died

    async def _revive(self, worker: str, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        if await self._workers.revive(worker):
            self.happened.append(Happened("restart", worker, self._clock.now()))
