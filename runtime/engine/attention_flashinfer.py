"""Attention on CUDA: FlashInfer's paged kernels (Ye et al., arXiv 2501.01005), for 16-bit numbers.

Written against FlashInfer 0.6.6; tests/gpu compares it with `GatheredAttention` on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import flashinfer
import numpy as np
import torch
from numpy.typing import NDArray

from mserve.runtime.engine.attention import Attention
from mserve.runtime.engine.inputs import Indices, StepInputs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.launches import pinned_for, upload
from mserve.runtime.engine.model_config import ModelConfig

_WORKSPACE_BYTES = 384 << 20


class FlashInferAttention:
    """Prefill and decode wrappers over one pool. They run one after another, so they share their
    scratch memory."""

    def __init__(self, pool: KvPool, config: ModelConfig) -> None:
        self._pool = pool
        self._config = config
        self._workspace = torch.zeros(
            _WORKSPACE_BYTES, dtype=torch.uint8, device=pool.tensor.device
        )
        self._prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        self._decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace, "NHD", use_tensor_cores=_uses_tensor_cores(config)
        )
        self._fixed_pages: torch.Tensor | None = None

    def plan(self, inputs: StepInputs) -> "FlashInferStep":
        if inputs.chunks:
            self._plan_prefill(inputs)
        if inputs.decode_pages:
            _plan_decode(self._decode, inputs, self._pool, self._config)
        return FlashInferStep(
            pool=self._pool,
            prefill=self._prefill if inputs.chunks else None,
            decode=self._decode if inputs.decode_pages else None,
            decode_begin=inputs.decode_begin,
        )

    def fixed(self, num_decodes: int, most: int) -> Attention:
        """For steps of exactly so many decodes, up to `most`, that always run in the same memory:
        a CUDA graph can hold them. The largest is to be asked for first."""
        if self._fixed_pages is None:
            longest = min(self._config.max_positions // self._pool.page_size, self._pool.num_pages)
            self._fixed_pages = self._indices(most * (longest + 1))
        wrapper = flashinfer.CUDAGraphBatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            self._indices(num_decodes + 1),
            self._fixed_pages,
            self._indices(num_decodes),
            "NHD",
            use_tensor_cores=_uses_tensor_cores(self._config),
        )
        return FixedDecodes(self._pool, self._config, wrapper)

    def _indices(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.int32, device=self._pool.tensor.device)

    def _plan_prefill(self, inputs: StepInputs) -> None:
        """A chunk's queries are the last ones of its positions: causal means lower right."""
        rows = [span.end - span.begin for span in inputs.chunks]
        lengths = np.array([span.end for span in inputs.chunks])
        table = _PageTable.of([span.pages for span in inputs.chunks], lengths, self._pool)
        self._prefill.plan(
            pinned_for(self._pool.tensor.device, _offsets(rows)),
            table.offsets,
            table.pages,
            table.last_page_lengths,
            self._config.num_heads,
            self._config.num_kv_heads,
            self._config.head_dim,
            self._pool.page_size,
            causal=True,
            window_left=_window_left(self._config),
            q_data_type=self._pool.tensor.dtype,
            kv_data_type=self._pool.tensor.dtype,
        )


class FixedDecodes:
    """Decodes of one number of sequences, in buffers that stay where they are: an `Attention`."""

    def __init__(self, pool: KvPool, config: ModelConfig, wrapper: Any) -> None:
        self._pool = pool
        self._config = config
        self._wrapper = wrapper

    def plan(self, inputs: StepInputs) -> "FlashInferStep":
        _plan_decode(self._wrapper, inputs, self._pool, self._config)
        return FlashInferStep(self._pool, prefill=None, decode=self._wrapper, decode_begin=0)


@dataclass(frozen=True, slots=True)
class FlashInferStep:
    """The planned wrappers; None where a step has no such rows. Valid until the next plan."""

    pool: KvPool
    prefill: Any
    decode: Any
    decode_begin: int

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `StepAttention`. `k` and `v` are read from the pool."""
        keys_values = self.pool.keys_values(layer)
        q = q.contiguous()  # [rows, heads, head_dim]
        parts = []
        if self.prefill is not None:
            parts.append(self.prefill.run(q[: self.decode_begin], keys_values))
        if self.decode is not None:
            parts.append(self.decode.run(q[self.decode_begin :], keys_values))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _plan_decode(wrapper: Any, inputs: StepInputs, pool: KvPool, config: ModelConfig) -> None:
    table = _PageTable.of(list(inputs.decode_pages), inputs.decode_lengths, pool)
    wrapper.plan(
        table.offsets,
        table.pages,
        table.last_page_lengths,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        pool.page_size,
        window_left=_window_left(config),
        q_data_type=pool.tensor.dtype,
        kv_data_type=pool.tensor.dtype,
    )


def _window_left(config: ModelConfig) -> int:
    """Positions before its own that one attends to; -1: all."""
    return -1 if config.sliding_window is None else config.sliding_window - 1


def _uses_tensor_cores(config: ModelConfig) -> bool:
    """They pay once several query heads share a key-value head."""
    return config.num_heads >= 4 * config.num_kv_heads


@dataclass(frozen=True, slots=True)
class _PageTable:
    """Sequences' pages as FlashInfer takes them: compressed rows. The offsets and lengths stay on
    the host, where its planner reads them, pinned, as it copies them to the device too."""

    offsets: torch.Tensor  # [sequences + 1], int32
    pages: torch.Tensor  # [pages of all], int32, on the device
    last_page_lengths: torch.Tensor  # [sequences], int32, in [1, page_size]

    @classmethod
    def of(cls, tables: list[Indices], lengths: Indices, pool: KvPool) -> "_PageTable":
        device = pool.tensor.device
        last_page_lengths = _int32((lengths - 1) % pool.page_size + 1)
        return cls(
            offsets=pinned_for(device, _offsets([len(table) for table in tables])),
            pages=upload(np.concatenate(tables), device, torch.int32),
            last_page_lengths=pinned_for(device, last_page_lengths),
        )


def _offsets(counts: list[int]) -> torch.Tensor:
    """[0, counts[0], counts[0] + counts[1], ...] in int32."""
    return _int32(np.concatenate(([0], np.cumsum(counts))))


def _int32(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32))
