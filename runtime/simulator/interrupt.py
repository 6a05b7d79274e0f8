"""Ctrl-C while a simulation runs: noted, so that the loop ends between two callbacks.

Raised inside one, as Python does it, it would leave coroutines half way that nobody can close. Knows
no loop.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """`is_noted` after the first Ctrl-C; the second one is raised at once."""

    def __init__(self) -> None:
        self.is_noted = False

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Notes Ctrl-C in the body, unless somebody else handles it, or there is no main thread."""
        is_ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if not is_ours:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_noted:
            raise KeyboardInterrupt
        self.is_noted = True
