"""`runtime.clock.Clock` over a virtual loop: periodic timers are daemons, and the date is made up."""

import asyncio
from collections.abc import Callable

from mserve.runtime.clock import Timer
from mserve.runtime.simulator.loop import VirtualLoop

EPOCH_S = 1_700_000_000.0  # unix seconds at the loop's zero


class VirtualClock:
    """Implements `Clock`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return EPOCH_S + self._loop.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def call_at(self, when: float, call: Callable[[], object]) -> Timer:
        return self._loop.call_at(when, call)

    def call_after(self, delay_s: float, call: Callable[[], object]) -> Timer:
        return self._loop.call_at(self._loop.time() + delay_s, call)

    def call_soon(self, call: Callable[[], object]) -> None:
        """In this instant, after what is ready already."""
        self._loop.call_soon(call)

    def remind(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Once, and as a daemon: nobody waits for it."""
        with self._loop.daemon():
            return self._loop.call_later(delay_s, call)

    def every(self, interval_s: float, call: Callable[[], object]) -> Timer:
        assert interval_s > 0, "A periodic timer needs a positive interval."
        with self._loop.daemon():
            return _Periodic(self._loop, interval_s, call)


class _Periodic:
    def __init__(self, loop: VirtualLoop, interval_s: float, call: Callable[[], object]) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._call = call
        self._handle = loop.call_later(interval_s, self._tick)

    def cancel(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        self._handle = self._loop.call_later(self._interval_s, self._tick)
        self._call()
