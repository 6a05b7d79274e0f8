"""An asyncio event loop whose time is virtual: when nothing is ready it jumps to the next timer.

Deterministic: timers of equal times fire in the order in which they were made, and tasks hash by
their number, so that sets of them (asyncio.TaskGroup, asyncio.wait) do not follow memory addresses.
No sockets, no threads. What would hang or go unnoticed in a real loop ends the run here: a deadlock,
time that does not move on, a callback or a forgotten task that failed. Knows nothing of serving.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, TypeVar, TypeVarTuple

from mserve.runtime.simulator.interrupt import Interrupt
from mserve.runtime.simulator.waits import describe_waits

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_IS_DAEMON: ContextVar[bool] = ContextVar("is_daemon", default=False)
PATIENCE_S = 120.0  # how long daemons may go on alone before it is called a deadlock
MAX_AT_ONCE = 20_000  # rounds of callbacks without time moving on
MAX_CANCELS = 10  # how often what is left of a run is cancelled, lest it refuses
ROUNDS_TO_END = 10  # of callbacks, before what has not ended is cancelled again


class SimulationError(Exception):
    """Base of what ends a run."""


class Deadlock(SimulationError):
    """Somebody waits, and nothing will ever happen. The message says who waits, and where."""


class Livelock(SimulationError):
    """Callbacks call each other, and time does not move on."""


class Crash(SimulationError):
    """A callback, or a task that nobody waits for, failed; its error is the cause."""


class Loss(SimulationError):
    """A run came to its end, and something is missing or was not given back. The message says what."""


class VirtualTask(asyncio.Task[T]):
    """A task that hashes by its number."""

    def __init__(self, coro: Coroutine[Any, Any, T], number: int, **options: Any) -> None:
        self.number = number  # first: asyncio puts the task into a set as it is made
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class _Handle:
    """A callback to come; at a time of its own, if it is a timer's. What asyncio asks of a handle:
    its own classes cost more than what they call."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "is_daemon")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False
        self.is_daemon = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class VirtualLoop(asyncio.BaseEventLoop):
    """`run` one coroutine to its end; times are seconds from `start_s` on.

    What is scheduled inside `daemon()`, and all that follows from it, does not count as progress: a
    run in which only daemons are left for `PATIENCE_S` is a deadlock.
    """

    _ready: deque[_Handle]

    def __init__(self, start_s: float = 0.0) -> None:
        super().__init__()
        self._now_s = start_s
        self._timers: list[tuple[float, int, _Handle]] = []
        self._num_timers = 0
        self._num_tasks = 0
        self._work_s = start_s  # when something that is no daemon's happened last
        self._rounds_at_once = 0
        self._crash: Crash | None = None
        self._is_over = False  # what fails now is a consequence
        self._interrupt = Interrupt()
        self.num_callbacks = 0
        self.set_task_factory(self._make_task)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Raises what `main` raises, a SimulationError, or KeyboardInterrupt between two callbacks.
        Nothing of the run outlives it."""
        with self._interrupt.awaited():
            try:
                return self.run_until_complete(main)
            finally:
                self._is_over, self._rounds_at_once = True, 0
                self.run_until_complete(self._cancel_all())

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Tasks and timers made inside, and what they make, go on only while others do."""
        token = _IS_DAEMON.set(True)
        try:
            yield
        finally:
            _IS_DAEMON.reset(token)

    def start_daemon(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that nobody waits for; a failure in it ends the run all the same."""
        with self.daemon():
            task = self.create_task(work, name=name)
        task.add_done_callback(_check_end)
        return task

    # --- asyncio's side ------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(  # type: ignore[override]  # a handle of our own
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> _Handle:
        context = copy_context() if context is None else context  # an empty one counts as false
        handle = _Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # a handle of our own
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> _Handle:
        context = copy_context() if context is None else context
        timer = _Handle(callback, args, context)
        timer.is_daemon = context.get(_IS_DAEMON, False)
        self._num_timers += 1
        heappush(self._timers, (when, self._num_timers, timer))
        return timer

    def call_later(  # type: ignore[override]  # a handle of our own
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> _Handle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]  # a handle of our own
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> _Handle:
        """There is one thread; asyncio calls this for generators that nobody has closed."""
        return self.call_soon(callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Instead of logging: the run ends with the first failure."""
        if self._crash is None and not self._is_over:
            self._crash = Crash(str(context.get("message")))
            self._crash.__cause__ = context.get("exception")

    def _run_once(self) -> None:
        """All that is ready now; or, when nothing is, the timers that are due next."""
        if self._interrupt.is_noted and not self._is_over:
            raise KeyboardInterrupt
        if not self._ready:
            self._move_on()
        self._rounds_at_once += 1
        if self._rounds_at_once > MAX_AT_ONCE:
            raise Livelock(f"Time stands still at {self._now_s:.6f} s.\n{self.describe_tasks()}")
        next_handle = self._ready.popleft
        for _ in range(len(self._ready)):
            handle = next_handle()
            if handle.is_cancelled:
                continue
            self.num_callbacks += 1
            try:
                handle.context.run(handle.callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                message = f"A callback failed: {handle.callback!r}"
                self.call_exception_handler({"message": message, "exception": error})
            if self._crash is not None:
                crash, self._crash = self._crash, None
                raise crash

    # --- time ----------------------------------------------------------------------------------

    def _move_on(self) -> None:
        """To the next timer's time; it and those of the same time are ready then."""
        timers = self._timers
        while timers and timers[0][2].is_cancelled:
            heappop(timers)
        if not timers:
            raise Deadlock(f"Nothing will ever happen again.\n{self.describe_tasks()}")
        when, _, first = timers[0]
        if first.is_daemon and when - self._work_s > PATIENCE_S:
            self._check_progress()
        if when > self._now_s:
            self._now_s, self._rounds_at_once = when, 0
        while timers and timers[0][0] <= when:
            timer = heappop(timers)[2]
            if not timer.is_cancelled:
                self._ready.append(timer)
                if not timer.is_daemon:
                    self._work_s = self._now_s

    def _check_progress(self) -> None:
        if all(timer.is_daemon or timer.is_cancelled for _, _, timer in self._timers):
            alone = f"Only daemons are left since {self._work_s:.3f} s."
            raise Deadlock(f"{alone}\n{self.describe_tasks()}")

    # --- tasks ---------------------------------------------------------------------------------

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        context: Context | None = None,
    ) -> "VirtualTask[T]":
        assert asyncio.iscoroutine(coro), "a task is made of a coroutine"
        self._num_tasks += 1
        return VirtualTask(coro, self._num_tasks, loop=loop, context=context)

    def tasks(self) -> list[VirtualTask[Any]]:
        """Those that are not done, in the order in which they were made."""
        found = [task for task in asyncio.all_tasks(self) if isinstance(task, VirtualTask)]
        return sorted(found, key=lambda task: task.number)

    def describe_tasks(self) -> str:
        """Who waits, and where; a line for each place."""
        return describe_waits(self.tasks())

    async def _cancel_all(self) -> None:
        me = asyncio.current_task()
        for _ in range(MAX_CANCELS):
            left = [task for task in self.tasks() if task is not me]
            if not left:
                return
            for task in left:
                task.cancel()
            for _ in range(ROUNDS_TO_END):
                await asyncio.sleep(0)


def _check_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.result()
