"""Executes batches with torch: the model, the KV pool, attention and sampling put together.

Implements `ModelRunner`. Decides nothing: which tokens, which pages and when is the batch's matter.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mserve.runtime.engine.attention import Attention
from mserve.runtime.engine.backend import Backend, choose_backend, find_device, find_dtype
from mserve.runtime.engine.batching import (
    Batch,
    KvStore,
    LaunchedStep,
    LayerHook,
    StepOutOfMemory,
    StepOutput,
)
from mserve.runtime.engine.constraints import Constraints
from mserve.runtime.engine.decode_graphs import DecodeGraphs
from mserve.runtime.engine.distributions import Distributions
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.kv_pool import KvPool, bytes_per_token
from mserve.runtime.engine.launches import (
    Taken,
    TorchStep,
    device_errors,
    upload,
    with_sampled,
)
from mserve.runtime.engine.memory import (
    DEFAULT_BYTES,
    free_bytes,
    largest_batch,
    pages_in,
    pages_in_share,
    working_bytes,
)
from mserve.runtime.engine.model_config import ModelConfig, read_config
from mserve.runtime.engine.models.llama import Llama, LlamaWeights
from mserve.runtime.engine.parallel import WHOLE, Shard, check_degree, rank_devices
from mserve.runtime.engine.rank_messages import RankSpec
from mserve.runtime.engine.ranks import OnLost, ParallelKv, Ranks
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.engine.shapes import SHAPES, shape_config
from mserve.runtime.engine.weights import Checkpoint, DummyWeights
from mserve.runtime.errors import ConfigError
from mserve.runtime.grammar import Vocabulary


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


def load_runner(
    model: Path | str,
    *,
    load: str = "auto",
    device: str = "cpu",
    dtype: str = "float32",
    page_size: int = 16,
    num_pages: int | None = None,
    host_pages: int = 0,
    kv_memory_bytes: int | None = None,
    gpu_memory_share: float = 0.9,
    host_memory_bytes: int = 0,
    max_batch_tokens: int = 2048,
    max_running: int = 256,
    threads: int | None = None,
    generator: np.random.Generator | None = None,
    attention: str | None = None,
    graphs: bool = True,
    gpus: int = 1,
    first_gpu: int | None = None,
    on_lost_rank: OnLost | None = None,
) -> TorchRunner:
    """Loads a Hugging Face folder and allocates KV memory: `num_pages`, or what fits in bytes, or a
    share of what the weights leave free on a GPU; and pages or bytes in host memory.

    With `load` "dummy", the weights are random ones, and `model` may be the name of a shape too
    (shapes.py). Batches have up to `max_batch_tokens` rows and `max_running` sequences: memory is
    planned and decodes are recorded for that. `threads` sets torch's threads for the whole process.
    `generator` draws for requests without a seed (default: seeded by the operating system).
    `attention` is "gathered", which runs anywhere, or "flashinfer", on CUDA the default. Without
    `graphs` every step is launched kernel by kernel.

    `gpus` is the tensor-parallel degree: that many processes, this one among them, on consecutive
    GPUs from `device` or `first_gpu` on, or on the CPU, where they share `threads`. When one of the
    others ends, `on_lost_rank` is told in a thread. Memory is the worker's: all ranks' together.

    Raises ConfigError.
    """
    if load not in ("auto", "dummy"):
        raise ConfigError(f"Weights are loaded as auto or dummy, not as {load!r}.")
    devices = rank_devices(find_device(device), gpus, first_gpu)
    threads = max(1, (threads or torch.get_num_threads()) // gpus)
    is_dummy = load == "dummy"
    ranks, shard = None, WHOLE
    if gpus > 1:
        spec = RankSpec(str(model), is_dummy, dtype, attention, page_size, threads)
        config = find_config(model, is_dummy)
        check_degree(config, gpus)
        ranks, shard = Ranks.start(config, spec, devices, on_lost_rank)
    try:
        loaded = load_model(
            model,
            is_dummy=is_dummy,
            device=find_device(devices[0]),
            dtype=find_dtype(dtype),
            attention=attention,
            page_size=page_size,
            threads=threads,
            generator=generator,
            shard=shard,
            ranks=ranks,
        )
        with _start_errors():
            if num_pages is None:
                num_pages = loaded.plan_pages(
                    kv_memory_bytes, gpu_memory_share, max_batch_tokens, max_running
                )
            is_recorded = graphs and loaded.backend.has_flashinfer and ranks is None
            host_pages = host_pages or host_memory_bytes // (gpus * loaded.page_bytes)
            return loaded.runner(num_pages, host_pages, max_running if is_recorded else 0)
    except BaseException:
        if ranks is not None:
            ranks.close()
        raise


@contextmanager
def _start_errors() -> Iterator[None]:
    """Raises ConfigError where memory is short before there is a request."""
    try:
        with device_errors():
            yield
    except StepOutOfMemory as error:
        raise ConfigError(
            f"The device has too little memory for the largest batch: {error}. Lower"
            " --max-batch-tokens, --max-running, --kv-memory or --gpu-memory-share."
        ) from None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, or a rank's part of one, that has no KV memory yet."""

    backend: Backend
    model: Llama
    sampler: Sampler
    page_size: int
    shard: Shard
    ranks: Ranks | None  # on rank 0

    @property
    def page_bytes(self) -> int:
        """Of a page's part in here."""
        return self.page_size * bytes_per_token(self.backend.config, self.backend.dtype)

    def runner(self, num_pages: int, host_pages: int = 0, num_recorded: int = 0) -> TorchRunner:
        """Decodes of up to `num_recorded` sequences are recorded. Raises ConfigError."""
        if self.ranks is not None:
            self.ranks.allocate(num_pages, host_pages)
        pool = self._pool(num_pages, host_pages, spare=num_recorded > 0)
        attention = self.backend.attention(pool)
        graphs = None
        if num_recorded:
            graphs = self.backend.graphs(self.model, pool, attention, num_recorded)
        return TorchRunner(self.model, pool, attention, self.sampler, graphs, self.ranks)

    def plan_pages(
        self, kv_memory_bytes: int | None, share: float, max_batch_tokens: int, max_running: int
    ) -> int:
        """As many as fit in what was set apart for KV, or else in a share of a GPU's memory."""
        device, config = self.backend.device, self.backend.config
        if kv_memory_bytes is not None or device.type == "cpu":
            given = DEFAULT_BYTES if kv_memory_bytes is None else kv_memory_bytes
            return pages_in(given, self.shard.degree * self.page_bytes)
        batch = largest_batch(max_batch_tokens, max_running, config.max_positions, self.page_size)
        needed = working_bytes(device, lambda: self.runner(num_pages=1).run(batch))
        return pages_in_share(free_bytes(device), share, needed, self.page_bytes)

    def _pool(self, num_pages: int, host_pages: int, spare: bool) -> KvPool:
        try:
            return KvPool(
                self.backend.config,
                num_pages=num_pages,
                page_size=self.page_size,
                dtype=self.backend.dtype,
                device=self.backend.device,
                host_pages=host_pages,
                spare=spare,
            )
        except RuntimeError as error:  # torch has no narrower one for "out of memory" on the CPU
            size = (num_pages + host_pages) * self.page_bytes
            raise ConfigError(f"{size >> 20} MiB of KV memory cannot be had: {error}") from None


def _load_weights(folder: Path, is_dummy: bool, backend: Backend, shard: Shard) -> LlamaWeights:
    config, dtype, device = backend.config, backend.dtype, backend.device
    try:
        if is_dummy:
            return LlamaWeights.load(config, shard.weights(DummyWeights(dtype, device)))
        with Checkpoint(folder, dtype, device) as checkpoint:
            return LlamaWeights.load(config, shard.weights(checkpoint))
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"The model's weights do not fit on {device}: {error}") from None


def find_config(model: Path | str, is_dummy: bool) -> ModelConfig:
    """Of a folder or, for dummy weights, of a shape's name too. Raises ConfigError."""
    if is_dummy and str(model) in SHAPES and not Path(model).is_dir():
        return shape_config(str(model))
    return read_config(Path(model))


def load_model(
    model: Path | str,
    *,
    is_dummy: bool,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
    page_size: int,
    threads: int,
    generator: np.random.Generator | None = None,
    shard: Shard = WHOLE,
    ranks: Ranks | None = None,
) -> LoadedModel:
    """What of `load_runner` comes before KV memory, on every rank. Raises ConfigError."""
    torch.set_num_threads(threads)
    folder = Path(model)
    config = shard.config(find_config(model, is_dummy))
    generator = generator or np.random.default_rng()
    backend = choose_backend(attention, config, device, dtype)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for streams and graphs, which name none
    weights = _load_weights(folder, is_dummy, backend, shard)
    constraints = Constraints(lambda: Vocabulary(folder, config.vocab_size, config.eos_ids))
    sampler = Sampler(config.eos_ids, generator, constraints, backend.draws(generator))
    operations = shard.operations(backend.operations(weights.embedding))
    llama = Llama(config, weights, operations)
    return LoadedModel(backend, llama, sampler, page_size, shard, ranks)
