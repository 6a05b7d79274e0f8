"""What a worker says of its own costs follows what its steps take."""

from array import array
from math import isclose

import pytest

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.drift import CostDrift
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

COST = CostProfile(
    prefill_base_s=1e-3,
    prefill_token_s=1e-5,
    prefill_pair_s=0.0,
    decode_base_s=1e-3,
    decode_sequence_s=1e-4,
    transfer_base_s=1e-4,
    transfer_bytes_per_s=1e9,
    kv_bytes_per_token=1024,
)


def sequence() -> Sequence:
    return Sequence("k", array("i", range(1000)), 1000, sampling=Sampling(max_tokens=1))


PREFILL = Batch((Chunk(sequence(), 0, 100, sample=True),), ())
DECODE = Batch((), (sequence(), sequence()))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_ratios_settle_at_what_is_measured(factor: float) -> None:
    drift = CostDrift(COST)
    for _ in range(500):
        drift.observe(PREFILL, factor * 2e-3)
        drift.observe(DECODE, 3 * 1.2e-3)
    assert isclose(drift.prefill, factor, rel_tol=0.02)
    assert isclose(drift.decode, 3.0, rel_tol=0.02)


def test_one_step_that_was_stopped_changes_little() -> None:
    drift = CostDrift(COST)
    drift.observe(DECODE, 100.0)
    assert drift.decode < 1.05
    assert drift.prefill == 1.0


def test_a_step_that_is_not_over_counts_with_the_next_one() -> None:
    drift = CostDrift(COST)
    for _ in range(500):
        drift.observe(PREFILL, 1e-4, is_over=False)
        drift.observe(DECODE, 2 * (2e-3 + 1.2e-3) - 1e-4)
    assert isclose(drift.prefill, 2.0, rel_tol=0.02)
    assert drift.decode == 1.0


def test_what_takes_no_time_tells_nothing() -> None:
    drift = CostDrift(COST)
    drift.observe(DECODE, 0.0)
    assert drift.decode == 1.0


def test_a_step_reads_the_weights_once() -> None:
    two = COST.step_time([(0, 100), (0, 50)], 0)
    assert isclose(two, 1e-3 + 150e-5)
    assert isclose(COST.step_time([(0, 100)], 4), 2e-3 + 4e-4)
    assert isclose(COST.step_time([], 4), COST.decode_time(1, 4))


def test_scaled_costs_leave_transfers_alone() -> None:
    scaled = COST.scaled(2.0, 3.0)
    assert scaled.prefill_time(100) == 2 * COST.prefill_time(100)
    assert scaled.decode_time(5, 2) == pytest.approx(3 * COST.decode_time(5, 2))
    assert scaled.transfer_time(100) == COST.transfer_time(100)
    assert COST.scaled(1.0, 1.0) is COST
