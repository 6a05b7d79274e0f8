"""Whether an engine process lives: a thread of it writes a byte now and then, its step loop its stats.

A step of a large model may take seconds, in which the loop says nothing. The thread goes on all the
same, unless the whole process is stopped, swapped out, or stuck where Python is held: so a frozen
process is noticed soon, and a loop that hangs after the time that some of its longest steps take.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

INTERVAL_S = 0.25  # between two signs of life, and between two looks at them
FROZEN_S = 2.0  # without a pulse
HANGS_S = 5.0  # without stats, on top of the time of long steps


def start_pulse(fd: int) -> None:
    """In the engine process: writes to the pipe `fd` from a thread, for as long as there is one.

    Nobody reads while the reader is frozen itself: a full pipe says all that there is to say.
    """
    os.set_blocking(fd, False)

    def beat() -> None:
        while True:
            with suppress(BlockingIOError):
                os.write(fd, b".")
            time.sleep(INTERVAL_S)

    threading.Thread(target=_until_closed, args=(beat,), name="pulse", daemon=True).start()


def _until_closed(beat: Callable[[], None]) -> None:
    with suppress(BrokenPipeError):
        beat()


class Pulse(asyncio.Protocol):
    """In the HTTP process: reads the pipe and tells whether the engine is silent.

    Time is counted in looks, not in seconds: whoever was frozen himself must not think so of others.
    """

    def __init__(self) -> None:
        self._looks_without_pulse = 0
        self._looks_without_stats = 0
        self._most_without_stats = 0

    def expect_steps(self, longest_s: float) -> None:
        """How long the longest step is thought to take; until then only the pulse counts."""
        self._most_without_stats = round((HANGS_S + 4 * longest_s) / INTERVAL_S)

    def data_received(self, data: bytes) -> None:
        self._looks_without_pulse = 0

    def said_stats(self) -> None:
        self._looks_without_stats = 0

    def look(self) -> str:
        """What is wrong with the engine, "" if nothing is. To be called every `INTERVAL_S`."""
        self._looks_without_pulse += 1
        self._looks_without_stats += 1
        if self._looks_without_pulse > FROZEN_S / INTERVAL_S:
            return "is frozen"
        if 0 < self._most_without_stats < self._looks_without_stats:
            return "hangs in a step"
        return ""
