"""Executes batches with torch: the model, the KV pool, attention and sampling put together.

Implements `ModelRunner`. Decides nothing: which tokens, which pages and when is the batch's matter.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mserve.runtime.engine.attention import Attention, GatheredAttention
from mserve.runtime.engine.batching import Batch, LayerHook, StepOutput
from mserve.runtime.engine.constraints import Constraints
from mserve.runtime.engine.distributions import Distributions
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.kv_pool import KvPool, bytes_per_token
from mserve.runtime.engine.model_config import ModelConfig, read_config
from mserve.runtime.engine.models.llama import Llama, LlamaWeights
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.engine.weights import Checkpoint
from mserve.runtime.errors import ConfigError
from mserve.runtime.grammar import Vocabulary

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class TorchRunner:
    """A model ready to run. `pool` is also the `KvStore` of the transfers."""

    model: Llama
    pool: KvPool
    attention: Attention
    sampler: Sampler

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        with torch.inference_mode():
            self.pool.move(batch.moves)
            if not batch.computes:
                return StepOutput(tokens=[])
            inputs = StepInputs.of(batch, self.pool.page_size)
            hidden = self._forward(inputs, on_layer)
            if not len(inputs.sampled_rows):
                return StepOutput(tokens=[])
            if len(inputs.sampled_rows) < len(inputs.token_ids):
                hidden = hidden[self._on_device(inputs.sampled_rows)]
            logits = self.model.logits(hidden)
            distributions = Distributions.of(logits, batch.sampled)
            tokens = self.sampler.sample(logits, batch.sampled)
            return StepOutput(tokens=tokens, logprobs=distributions.logprobs(tokens))

    def _forward(self, inputs: StepInputs, on_layer: LayerHook | None) -> torch.Tensor:
        """Hidden states [rows, hidden]; fills the pages on the way, layer by layer."""
        step = self.attention.plan(inputs)
        slots = self._on_device(inputs.slots)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.pool.append(layer, slots, k, v)
            if on_layer is not None:
                on_layer(layer)
            return step.attend(layer, q, k, v)

        return self.model.forward(
            self._on_device(inputs.token_ids), self._on_device(inputs.positions), attend
        )

    def _on_device(self, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(indices).to(self.pool.tensor.device)


def load_runner(
    folder: Path | str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    page_size: int = 16,
    num_pages: int | None = None,
    host_pages: int = 0,
    kv_memory_bytes: int | None = None,
    host_memory_bytes: int = 0,
    threads: int | None = None,
    generator: np.random.Generator | None = None,
    attention: str | None = None,
) -> TorchRunner:
    """Loads a Hugging Face folder and allocates KV memory: `num_pages`, or what fits in bytes; the
    same in host memory.

    `threads` sets torch's threads for the whole process. `generator` draws for requests without a
    seed (default: seeded by the operating system). `attention` is "gathered", which runs anywhere,
    or "flashinfer", the default on CUDA. Raises ConfigError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    folder = Path(folder)
    config = read_config(folder)
    torch_device, torch_dtype = _device(device), _dtype(dtype)
    pages = num_pages or _pages_in(kv_memory_bytes or 0, config, torch_dtype, page_size)
    page_bytes = page_size * bytes_per_token(config, torch_dtype)
    with Checkpoint(folder, torch_dtype, torch_device) as checkpoint:
        weights = LlamaWeights.load(config, checkpoint)
    try:
        pool = KvPool(
            config,
            num_pages=pages,
            page_size=page_size,
            dtype=torch_dtype,
            device=torch_device,
            host_pages=host_pages or host_memory_bytes // page_bytes,
        )
    except RuntimeError as error:  # torch has no narrower one for "out of memory" on the CPU
        size = pages * page_bytes + host_memory_bytes
        raise ConfigError(f"{size >> 20} MiB of KV memory cannot be had: {error}") from None
    return TorchRunner(
        model=Llama(config, weights),
        pool=pool,
        attention=_attention(attention, pool, config),
        sampler=Sampler(
            config.eos_ids,
            generator or np.random.default_rng(),
            Constraints(lambda: Vocabulary(folder, config.vocab_size, config.eos_ids)),
        ),
    )


def _attention(name: str | None, pool: KvPool, config: ModelConfig) -> Attention:
    on_cuda = pool.tensor.device.type == "cuda"
    name = name or ("flashinfer" if on_cuda else "gathered")
    if name == "gathered":
        return GatheredAttention(pool, config.sliding_window)
    if name != "flashinfer":
        raise ConfigError(f"The attention {name!r} is not known; use gathered or flashinfer.")
    if not on_cuda:
        raise ConfigError("FlashInfer's attention needs a CUDA device; use gathered.")
    try:
        from mserve.runtime.engine.attention_flashinfer import FlashInferAttention
    except ImportError as error:
        raise ConfigError(
            f"On CUDA mserve needs FlashInfer, the extra mserve[cu12] or mserve[cu13]: {error}."
        ) from error
    return FlashInferAttention(pool, config)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{name!r} is not a device; use cpu or cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"The device {name!r} is not supported; use cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"The device {name!r} was asked for, but torch sees no CUDA device.")
    return device


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"The dtype {name!r} is not supported; use {', '.join(DTYPES)}.")
    return DTYPES[name]


def _pages_in(num_bytes: int, config: ModelConfig, dtype: torch.dtype, page_size: int) -> int:
    page_bytes = page_size * bytes_per_token(config, dtype)
    if num_bytes < page_bytes:
        raise ConfigError(
            f"{num_bytes} bytes of KV memory hold no page; a page of {page_size} tokens takes"
            f" {page_bytes}."
        )
    return num_bytes // page_bytes
