"""A run of equal steps is priced in closed form, and is cut at the end of the step under way."""

from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.engine.batching import Batch
from mserve.runtime.simulator.runs import Run

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
