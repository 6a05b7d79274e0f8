"""Executes batches with torch: the model, the KV pool, attention and sampling put together.

Implements `ModelRunner`. Decides nothing: which tokens, which pages and when is the batch's matter.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from mserve.runtime.engine.attention import Attention
from mserve.runtime.engine.batching import (
    Batch,
    KvStore,
    LaunchedStep,
    LayerHook,
    StepOutput,
)
from mserve.runtime.engine.decode_graphs import DecodeGraphs
from mserve.runtime.engine.distributions import Distributions
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.launches import (
    Taken,
    TorchStep,
    device_errors,
    upload,
    with_sampled,
)
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.models.llama import Llama
from mserve.runtime.engine.ranks import ParallelKv, Ranks
from mserve.runtime.engine.sampler import Sampler


@dataclass(frozen=True, slots=True)
class TorchRunner:
    """A model ready to run. `graphs` run what they can of the steps in which nobody waits for single
    layers. With `ranks`, model and pool are rank 0's part of a tensor-parallel model."""

    model: Llama
    pool: KvPool
    attention: Attention
    sampler: Sampler
    graphs: DecodeGraphs | None = None
    ranks: Ranks | None = None
    taken: Taken = field(default_factory=Taken)

    @property
    def config(self) -> ModelConfig:
        """Of the whole model."""
        return self.model.config if self.ranks is None else self.ranks.config

    @property
    def kv(self) -> KvStore:
        """The whole model's KV, for the transfers."""
        return self.pool if self.ranks is None else ParallelKv(self.pool, self.ranks)

    def close(self) -> None:
        """Ends the other ranks, where there are any."""
        if self.ranks is not None:
            self.ranks.close()

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        """See `ModelRunner`. Raises StepOutOfMemory when torch has none left on a device, DeviceLost, and
        RankFailure when the ranks cannot go on together."""
        with device_errors():
            return self._launch(batch, None, on_layer).result()

    def launch(self, batch: Batch, before: LaunchedStep | None) -> TorchStep:
        """See `LaunchingRunner`. Raises StepOutOfMemory, DeviceLost."""
        assert before is None or isinstance(before, TorchStep), "a step of another runner"
        assert before is None or self.ranks is None, "ranks are told the tokens with the step"
        with device_errors():
            return self._launch(batch, before, None)

    @torch.inference_mode()
    def _launch(
        self, batch: Batch, before: TorchStep | None, on_layer: LayerHook | None
    ) -> TorchStep:
        self.taken.wait()
        if self.ranks is not None:
            self.ranks.begin_moves(batch.moves)
        self.pool.move(batch.moves)
        if not batch.computes:
            return TorchStep()
        inputs = StepInputs.of(batch, self.pool.page_size)
        if self.ranks is not None:
            on_layer = self.ranks.begin_step(inputs, on_layer)
        logits = self._logits(inputs, None if before is None else before.sampled, on_layer)
        if logits is None:
            return TorchStep()
        sampled = batch.sampled
        distributions = Distributions.of(logits, sampled)
        return TorchStep.of(self.sampler.choose(logits, sampled), distributions)

    def _logits(
        self, inputs: StepInputs, before: torch.Tensor | None, on_layer: LayerHook | None
    ) -> torch.Tensor | None:
        """[sampled rows, vocab]; None if no row is sampled. `before`: see `forward`."""
        if self.graphs is not None and on_layer is None:
            replay = self.graphs.prepare(inputs, before)
            if replay is not None:
                self.taken.mark(self.pool.tensor.device)
                return replay()
        with nullcontext() if self.ranks is None else self.ranks.in_step():
            hidden = self.forward(inputs, on_layer, before)
        if not len(inputs.sampled_rows):
            return None
        if len(inputs.sampled_rows) < len(inputs.token_ids):
            hidden = hidden[self._on_device(inputs.sampled_rows)]
        return self.model.logits(hidden)

    @torch.inference_mode()
    def forward(
        self, inputs: StepInputs, on_layer: LayerHook | None, before: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [rows, hidden]; fills the pages on the way, layer by layer. `before` are the
        tokens that the last step sampled, where they have not been waited for."""
        step = self.attention.plan(inputs)
        slots = self._on_device(inputs.slots)
        positions = self._on_device(inputs.positions)
        token_ids = self._on_device(inputs.token_ids)
        self.taken.mark(self.pool.tensor.device)
        if before is not None:
            token_ids = with_sampled(token_ids, before)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.pool.append(layer, slots, k, v)
            if on_layer is not None:
                on_layer(layer)
            return step.attend(layer, q, k, v)

        return self.model.forward(token_ids, positions, attend)

    def _on_device(self, indices: np.ndarray) -> torch.Tensor:
        return upload(indices, self.pool.tensor.device)
