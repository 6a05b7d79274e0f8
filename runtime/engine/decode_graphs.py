"""Steps of decodes alone, recorded once per batch size and replayed: one launch instead of hundreds.

A batch runs in the smallest recorded size that holds it. The rows beyond it are padding: token 0 at
position 0 of the pool's spare page, which no sequence ever gets. Owns the buffers that recorded
steps read; how a step is recorded comes from outside, so that all of this runs on a CPU too.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mserve.runtime.engine.attention import Attention, StepAttention
from mserve.runtime.engine.batching import Batch
from mserve.runtime.engine.inputs import StepInputs, padded_decodes
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.launches import with_sampled
from mserve.runtime.engine.models.llama import Llama

Compute = Callable[[], torch.Tensor]
Record = Callable[[Compute], Compute]
"""Runs a computation on fixed buffers, and returns what does it again on their new contents."""

LARGEST = 256
"""Sequences in a recorded batch: beyond, the time of a step hides its launches."""
_WARM_UPS = 2


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, 32, 48, 64, ... up to `most`, itself included: from 16 on a third of the
    rows at most is padding, and the memory of each size buys something."""
    sizes, power = [1, 2, 4, 8], 16
    while sizes[-1] < most:
        sizes += [power, power * 3 // 2]
        power *= 2
    return [size for size in sizes if size < most] + [most]


@dataclass(slots=True)
class _Bucket:
    """`step` is what the recorded computation attends with, planned anew before every replay."""

    attention: Attention
    step: StepAttention
    replay: Compute


class DecodeGraphs:
    """`attention_of(n)` attends for exactly n decoding rows, in the same memory every time."""

    def __init__(
        self,
        model: Llama,
        pool: KvPool,
        attention_of: Callable[[int], Attention],
        most: int,
        record: Record,
    ) -> None:
        device = pool.tensor.device
        self._model = model
        self._pool = pool
        self._sizes = batch_sizes(min(most, LARGEST))
        shape = (3, self._sizes[-1])  # token ids, positions, slots
        self._staged = torch.zeros(shape, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._rows = torch.zeros(shape, dtype=torch.int64, device=device)
        self._buckets: dict[int, _Bucket] = {}
        with torch.inference_mode():
            for size in reversed(self._sizes):  # smaller ones fit in the memory of the largest
                self._buckets[size] = self._record(size, attention_of(size), record)

    def prepare(self, inputs: StepInputs, before: torch.Tensor | None = None) -> Compute | None:
        """What computes the logits [rows, vocab] of a batch of decodes, valid until the next one;
        None if it has to run unrecorded, because it has chunks or too many rows. `before`: the last
        step's tokens, as in `TorchRunner.forward`."""
        num_rows = len(inputs.decode_lengths)
        if inputs.chunks or num_rows > self._sizes[-1]:
            return None
        size = self._sizes[bisect_left(self._sizes, num_rows)]
        bucket = self._buckets[size]
        padded = self._padded(inputs, size)
        self._load(padded)
        if before is not None:
            token_ids = self._rows[0, :size]
            token_ids.copy_(with_sampled(token_ids, before))
        bucket.step = bucket.attention.plan(padded)
        return lambda: bucket.replay()[:num_rows]

    def replay_of(self, num_rows: int) -> Compute:
        """The recorded step that a batch of so many rows runs in, on what it had last: to time."""
        return self._buckets[self._sizes[bisect_left(self._sizes, num_rows)]].replay

    def _record(self, size: int, attention: Attention, record: Record) -> _Bucket:
        nothing = self._padded(StepInputs.of(Batch((), ()), self._pool.page_size), size)
        self._load(nothing)
        token_ids, positions, slots = self._rows[:, :size]
        bucket = _Bucket(attention, attention.plan(nothing), replay=lambda: self._rows)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self._pool.append(layer, slots, k, v)
            return bucket.step.attend(layer, q, k, v)

        def compute() -> torch.Tensor:
            return self._model.logits(self._model.forward(token_ids, positions, attend))

        bucket.replay = record(compute)
        return bucket

    def _padded(self, inputs: StepInputs, size: int) -> StepInputs:
        return padded_decodes(inputs, size, self._pool.spare_page, self._pool.page_size)

    def _load(self, inputs: StepInputs) -> None:
        """One copy to the device. Whoever prepares a step has waited until the last one's was read."""
        size = len(inputs.token_ids)
        rows = np.stack((inputs.token_ids, inputs.positions, inputs.slots))
        self._staged[:, :size] = torch.from_numpy(rows)
        self._rows.copy_(self._staged, non_blocking=True)


class CudaRecord:
    """Records CUDA graphs. They share their memory, so one must end before another is replayed."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        # Libraries allocate and compile when first used, which must not be recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            result = compute()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay
