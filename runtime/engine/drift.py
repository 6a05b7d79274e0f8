"""How far steps are from what the profile measured at start predicts: heat, neighbours, long contexts.

Two ratios, of steps with prefill and of those without, as moving means of log(measured / predicted).
They go out with heartbeats, and routers scale the worker's costs by them. Knows no clock.
"""

from math import exp, log

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch

WEIGHT = 0.02  # of one step: some fifty steps count
LIMIT = log(8.0)  # beyond this a step was not slow but stopped


class CostDrift:
    """`prefill` and `decode` are 1 where the profile is right, 2 where steps take twice as long."""

    def __init__(self, cost: CostProfile) -> None:
        self._cost = cost
        self._prefill = self._decode = 0.0  # logarithms
        self._open = (0.0, 0.0, False)  # predicted, measured, with prefill: of steps not waited for

    @property
    def prefill(self) -> float:
        return _rounded(self._prefill)

    @property
    def decode(self) -> float:
        return _rounded(self._decode)

    def observe(self, batch: Batch, seconds: float, *, is_over: bool = True) -> None:
        """Takes in one step that took so long. One that is not over (a GPU still computes it) counts
        together with the next that is."""
        chunks = [(chunk.begin, chunk.end) for chunk in batch.prefill]
        predicted_s = self._cost.step_time(chunks, len(batch.decode))
        before_predicted_s, before_s, has_prefill = self._open
        predicted_s, seconds = predicted_s + before_predicted_s, seconds + before_s
        has_prefill = has_prefill or bool(chunks)
        if not is_over:
            self._open = (predicted_s, seconds, has_prefill)
            return
        self._open = (0.0, 0.0, False)
        if predicted_s <= 0 or seconds <= 0:
            return
        found = max(-LIMIT, min(LIMIT, log(seconds / predicted_s)))
        if has_prefill:
            self._prefill += WEIGHT * (found - self._prefill)
        else:
            self._decode += WEIGHT * (found - self._decode)


def _rounded(value: float) -> float:
    """To 2%, so that heartbeats do not change with every step."""
    return round(exp(round(value / 0.02) * 0.02), 4)
