"""How long an engine's steps take on workers that were measured (`mserve calibrate`).

    step = base + token * prompt tokens + pair * (query, key) pairs + sequence * decodes
         + context * positions that decodes attend to

Stands where step_cost.py prices steps by datasheets. Knows batches and no cluster.
"""

from collections.abc import Sequence

from mserve.runtime.engine.batching import Batch
from mserve.runtime.simulator.profile import Profile


class MeasuredCost:
    """`engine.batching.StepCost` of one worker. Pages moved to and from the host are not priced: what
    that takes was not measured."""

    def __init__(self, profile: Profile) -> None:
        self._steps = profile.steps
        self.tensor_parallel = profile.gpus
        self.usd_per_s = 0.0  # not known

    def step_time(self, batch: Batch) -> tuple[float, float]:
        """(seconds of the first step, seconds by which each further one is longer)."""
        if not batch.computes:
            return 0.0, 0.0
        costs, num_decodes = self._steps, len(batch.decode)
        context = sum(sequence.num_computed + 1 for sequence in batch.decode)
        first_s = costs.prefill_base_s if batch.prefill else costs.decode_base_s
        first_s += costs.decode_sequence_s * num_decodes + costs.decode_context_s * context
        first_s += sum(self.prompt_time(chunk.begin, chunk.end) for chunk in batch.prefill)
        return first_s, costs.decode_context_s * num_decodes

    def decode_time(self, contexts: Sequence[int]) -> float:
        """Seconds of one step for sequences of these contexts."""
        costs = self._steps
        each_s = costs.decode_sequence_s * len(contexts) + costs.decode_context_s * sum(contexts)
        return costs.decode_base_s + each_s

    def prompt_time(self, begin: int, end: int) -> float:
        """What positions [begin, end) of a prompt add to a step, in seconds."""
        pairs = (end - begin) * (begin + end) / 2
        return self._steps.prefill_token_s * (end - begin) + self._steps.prefill_pair_s * pairs
