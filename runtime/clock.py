"""Time as an argument: what the runtime may ask of a clock, and the clock of the running loop.

The simulator has a virtual one with the same methods. Nothing else in the runtime reads the time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something due; cancelling it twice, or after it has run, does nothing."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """All times in seconds."""

    def now(self) -> float:
        """Monotonic, with an arbitrary zero."""
        ...

    def time(self) -> float:
        """Unix seconds, for what people and other hosts read."""
        ...

    async def sleep(self, duration_s: float) -> None: ...

    def call_at(self, when: float, call: Callable[[], object]) -> Timer:
        """Runs `call` once `now()` has reached `when`, in the loop's thread."""
        ...

    def every(self, interval_s: float, call: Callable[[], object]) -> Timer:
        """Runs `call` every `interval_s`, first after one interval. A daemon: a virtual clock with
        nothing else left to do stops instead of ticking for ever."""
        ...


class LoopClock:
    """The running event loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def call_at(self, when: float, call: Callable[[], object]) -> Timer:
        return self._loop.call_at(when, call)

    def every(self, interval_s: float, call: Callable[[], object]) -> Timer:
        assert interval_s > 0, "A periodic timer needs a positive interval."
        return _Periodic(self._loop, interval_s, call)


class _Periodic:
    """Keeps its phase: a late tick does not shift the next, and missed ticks are left out."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interval_s: float, call: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._call = call
        self._due = loop.time()
        self._handle = self._schedule()

    def cancel(self) -> None:
        self._handle.cancel()

    def _schedule(self) -> asyncio.TimerHandle:
        missed = max(0.0, self._loop.time() - self._due) // self._interval_s
        self._due += (missed + 1) * self._interval_s
        return self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        # Scheduled first, so that a call that raises (the loop reports it) does not end the timer
        # and a call that cancels its own timer ends it.
        self._handle = self._schedule()
        self._call()
