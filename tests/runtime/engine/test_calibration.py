"""A cost profile measured on the model that ships, and on clocks whose answer is known."""

from itertools import accumulate, repeat

import pytest

from mserve.runtime.config import shipped_model
from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch, LayerHook, StepOutput
from mserve.runtime.engine.calibration import measure_costs
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner

TINY = shipped_model()


class TimedRunner:
    """The pool and configuration of a real runner, with a known cost of every batch."""

    def __init__(self, runner: TorchRunner, truth: CostProfile) -> None:
        self.pool = runner.pool
        self.kv = runner.kv
        self.config = runner.config
        self.now = 0.0
        self._truth = truth

    def clock(self) -> float:
        self.now += 1e-9
        return self.now

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        for chunk in batch.prefill:
            self.now += self._truth.prefill_time(chunk.end - chunk.begin, chunk.begin)
        if batch.decode:
            self.now += self._truth.decode_time(1, len(batch.decode))
        return StepOutput(tokens=[0] * len(batch.sampled))


def truth(scale: float = 1.0) -> CostProfile:
    return CostProfile(
        prefill_base_s=1e-3 * scale,
        prefill_token_s=2e-5 * scale,
        prefill_pair_s=3e-8 * scale,
        decode_base_s=4e-3 * scale,
        decode_sequence_s=1e-4 * scale,
        transfer_base_s=0.0,
        transfer_bytes_per_s=1.0,
        kv_bytes_per_token=4 * 2 * 2 * 64 * 4,
    )


def test_known_costs_are_found() -> None:
    timed = TimedRunner(load_runner(TINY, num_pages=128), truth())
    found = measure_costs(timed, timed.clock)  # type: ignore[arg-type]
    for name in ("prefill_base_s", "prefill_token_s", "prefill_pair_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth(), name), rel=1e-2), name
    assert found.decode_base_s == pytest.approx(4e-3, rel=1e-2)
    assert found.decode_sequence_s == pytest.approx(1e-4, rel=1e-2)
    assert found.kv_bytes_per_token == truth().kv_bytes_per_token


def test_a_slow_model_is_measured_at_two_lengths() -> None:
    """Though the shortest prefill alone is over the budget: what is fixed is not spread over tokens."""
    timed = TimedRunner(load_runner(TINY, num_pages=128), truth(scale=1000.0))
    found = measure_costs(timed, timed.clock, budget_s=0.5)  # type: ignore[arg-type]
    assert found.prefill_pair_s == 0
    assert found.prefill_time(16) == pytest.approx(truth(1000.0).prefill_time(16), rel=1e-2)
    assert found.prefill_base_s == pytest.approx(truth(1000.0).prefill_base_s, rel=0.05)


def test_a_real_model_on_little_memory() -> None:
    runner = load_runner(TINY, num_pages=4, page_size=16)
    found = measure_costs(runner, accumulate(repeat(1e-4)).__next__)
    assert found.prefill_time(64) > 0
    assert found.decode_time(1) > 0
    assert found.transfer_bytes_per_s > 0
