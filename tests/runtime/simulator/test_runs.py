"""A run of equal steps is priced in closed form, and is cut at the end of the step under way. What a
look at the time starts is work like any other."""

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.engine.batching import Batch
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.loop import PATIENCE_S, VirtualLoop
from mserve.runtime.simulator.runs import TICK_S, Run, RunDriver

BATCH = Batch((), ())
seconds = st.floats(1e-6, 10)


def run(first_s: float, slope_s: float, steps: int) -> Run:
    return Run(BATCH, 0.0, first_s, slope_s, steps)


@given(first_s=seconds, slope_s=st.floats(0, 1e-3), steps=st.integers(1, 50))
def test_a_runs_duration_is_the_sum_of_its_steps(
    first_s: float, slope_s: float, steps: int
) -> None:
    total = sum(first_s + slope_s * number for number in range(steps))
    assert abs(run(first_s, slope_s, steps).duration_s(steps) - total) < 1e-9 * max(1, total)


@given(
    first_s=seconds,
    slope_s=st.floats(0, 1e-3),
    steps=st.integers(1, 10_000),
    share=st.floats(0, 1),
)
def test_a_cut_run_ends_with_the_step_under_way(
    first_s: float, slope_s: float, steps: int, share: float
) -> None:
    whole = run(first_s, slope_s, steps)
    elapsed_s = share * whole.duration_s(steps)
    kept = whole.steps_until(elapsed_s)
    assert 1 <= kept <= steps
    assert whole.duration_s(kept) >= elapsed_s
    assert kept == 1 or whole.duration_s(kept - 1) < elapsed_s


class Lease:
    """Of a service, what a driver asks: a plan that may begin when its lease has run out, and then
    takes `num_steps`."""

    num_sessions = 1
    wants_layers = False

    def __init__(self, num_steps: int) -> None:
        self._num_left = num_steps
        self.is_over = asyncio.Event()

    def expire(self, now: float) -> None: ...

    def progress(self, now: float) -> None: ...

    def drain(self) -> list[Any]:
        return []

    def plan(self, now: float) -> Batch | None:
        return BATCH if now > TICK_S and self._num_left else None

    def commit(self, *_: Any) -> None:
        self._num_left -= 1
        if not self._num_left:
            self.is_over.set()


def test_steps_that_a_look_at_the_time_starts_are_progress() -> None:
    """They may go on alone for longer than daemons may."""
    step_s = PATIENCE_S / 4

    async def main(clock: VirtualClock) -> float:
        service: Any = Lease(num_steps=10)
        cost: Any = SimpleNamespace(step_time=lambda batch: (step_s, 0.0))
        driver = RunDriver(service, SimpleNamespace(), clock, cost, lambda events: None)  # type: ignore[arg-type]  # of the transport nothing is asked
        driver.wake()
        await service.is_over.wait()
        return clock.now()

    loop = VirtualLoop()
    try:
        assert loop.run(main(VirtualClock(loop))) > 10 * step_s
    finally:
        loop.close()
