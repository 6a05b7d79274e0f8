"""What a model computes with on a device: chosen by name, or the fastest that can do it.

`gathered` is torch alone and runs anywhere; `flashinfer` are CUDA kernels for 16-bit numbers, and
the only one whose decodes can be recorded.
"""

import os
import platform
from dataclasses import dataclass

import numpy as np
import torch

from mserve.runtime.engine.attention import Attention, GatheredAttention
from mserve.runtime.engine.decode_graphs import LARGEST, CudaRecord, DecodeGraphs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.models.llama import Llama
from mserve.runtime.engine.models.operations import Operations, TorchOperations
from mserve.runtime.engine.sampler import Draws
from mserve.runtime.errors import ConfigError

NAMES = ("gathered", "flashinfer")
HEAD_DIMS = (64, 128, 256)
"""Of the heads that FlashInfer's kernels are made for."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Backend:
    """One model's on one device."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    has_flashinfer: bool

    def attention(self, pool: KvPool) -> Attention:
        if not self.has_flashinfer:
            return GatheredAttention(pool, self.config.sliding_window)
        from mserve.runtime.engine.attention_flashinfer import FlashInferAttention

        return FlashInferAttention(pool, self.config)

    def operations(self, like: torch.Tensor) -> Operations:
        if not self.has_flashinfer:
            return TorchOperations(self.config, like)
        from mserve.runtime.engine.operations_flashinfer import FlashInferOperations

        return FlashInferOperations(self.config, like)

    def draws(self, generator: np.random.Generator) -> Draws | None:
        """For requests without a seed; None: the sampler's own."""
        if not self.has_flashinfer:
            return None
        from mserve.runtime.engine.operations_flashinfer import FlashInferDraws

        return FlashInferDraws(self.device, int(generator.integers(1 << 62)))

    def graphs(
        self, model: Llama, pool: KvPool, attention: Attention, most: int
    ) -> DecodeGraphs | None:
        """Records decodes of up to `most` sequences; None where that cannot be."""
        if not self.has_flashinfer:
            return None
        from mserve.runtime.engine.attention_flashinfer import FlashInferAttention

        assert isinstance(attention, FlashInferAttention), "only its decodes can be recorded"
        most = min(most, LARGEST)
        return DecodeGraphs(
            model, pool, lambda size: attention.fixed(size, most), most, CudaRecord()
        )


def device_name(device: str) -> str:
    """What a measurement on it is good for: the GPU's model, or the processor and its cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {platform.processor()} {os.cpu_count()} cores"


def choose_backend(
    name: str | None, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> Backend:
    """Raises ConfigError for one that is not known, not installed or cannot compute this model."""
    if name not in (None, *NAMES):
        raise ConfigError(f"The attention {name!r} is not known; use {' or '.join(NAMES)}.")
    obstacle = _obstacle(config, device, dtype)
    if name == "flashinfer" and obstacle:
        raise ConfigError(f"FlashInfer's attention needs {obstacle}; use gathered.")
    has_flashinfer = name != "gathered" and not obstacle
    if has_flashinfer:
        _import_flashinfer()
    return Backend(config, device, dtype, has_flashinfer)


def _obstacle(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    """What FlashInfer lacks here; "" if nothing."""
    if device.type != "cuda":
        return "a CUDA device"
    if dtype == torch.float32:
        return "bfloat16 or float16"
    if config.head_dim not in HEAD_DIMS:
        return f"heads of {', '.join(map(str, HEAD_DIMS))}, not {config.head_dim}"
    return ""


def _import_flashinfer() -> None:
    try:
        import mserve.runtime.engine.attention_flashinfer  # noqa: F401  # to fail here, if it does
    except ImportError as error:
        raise ConfigError(
            f"On CUDA mserve needs FlashInfer, the extra mserve[cu12] or mserve[cu13]: {error}."
        ) from error


def find_device(name: str) -> torch.device:
    """Raises ConfigError unless it is there and of a kind that mserve runs on."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{name!r} is not a device; use cpu or cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"The device {name!r} is not supported; use cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"The device {name!r} was asked for, but torch sees no CUDA device.")
    return device


def threads_per_rank(threads: int | None, num_ranks: int) -> int:
    """So many, or as many as torch would take, shared out among the ranks of a worker."""
    return max(1, (threads or torch.get_num_threads()) // num_ranks)


def use_device(device: torch.device, threads: int) -> None:
    """Sets what torch has once per process: its threads, and the GPU of streams and graphs, which
    name none."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)


def find_dtype(name: str) -> torch.dtype:
    """Raises ConfigError unless models run in it."""
    if name not in DTYPES:
        raise ConfigError(f"The dtype {name!r} is not supported; use {', '.join(DTYPES)}.")
    return DTYPES[name]
