"""Attention on CUDA: FlashInfer's paged kernels (Ye et al., arXiv 2501.01005). Imported only here.

Written against FlashInfer 0.6's documented interface; it has not been run on a GPU yet, so its
equality with `GatheredAttention` is still to be shown there.
"""

from dataclasses import dataclass
from typing import Any

import flashinfer
import numpy as np
import torch
from numpy.typing import NDArray

from mserve.runtime.engine.inputs import Indices, StepInputs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.model_config import ModelConfig

_WORKSPACE_BYTES = 256 << 20


class FlashInferAttention:
    """Prefill and decode wrappers over one pool, with a workspace each."""

    def __init__(self, pool: KvPool, config: ModelConfig) -> None:
        self._pool = pool
        self._config = config
        window = config.sliding_window
        self._window_left = -1 if window is None else window - 1  # -1: everything
        self._prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(_workspace(pool), "NHD")
        # Tensor cores pay once several query heads share a key-value head.
        self._decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            _workspace(pool), "NHD", use_tensor_cores=config.num_heads >= 4 * config.num_kv_heads
        )

    def plan(self, inputs: StepInputs) -> "FlashInferStep":
        if inputs.chunks:
            self._plan_prefill(inputs)
        if inputs.decode_pages:
            self._plan_decode(inputs)
        return FlashInferStep(
            pool=self._pool,
            prefill=self._prefill if inputs.chunks else None,
            decode=self._decode if inputs.decode_pages else None,
            decode_begin=inputs.decode_begin,
        )

    def _plan_prefill(self, inputs: StepInputs) -> None:
        """A chunk's queries are the last ones of its positions: causal means lower right."""
        rows = [span.end - span.begin for span in inputs.chunks]
        lengths = np.array([span.end for span in inputs.chunks])
        table = _PageTable.of([span.pages for span in inputs.chunks], lengths, self._pool)
        self._prefill.plan(
            _offsets(rows),
            table.offsets,
            table.pages,
            table.last_page_lengths,
            self._config.num_heads,
            self._config.num_kv_heads,
            self._config.head_dim,
            self._pool.page_size,
            causal=True,
            window_left=self._window_left,
            q_data_type=self._pool.tensor.dtype,
            kv_data_type=self._pool.tensor.dtype,
        )

    def _plan_decode(self, inputs: StepInputs) -> None:
        table = _PageTable.of(list(inputs.decode_pages), inputs.decode_lengths, self._pool)
        self._decode.plan(
            table.offsets,
            table.pages,
            table.last_page_lengths,
            self._config.num_heads,
            self._config.num_kv_heads,
            self._config.head_dim,
            self._pool.page_size,
            window_left=self._window_left,
            q_data_type=self._pool.tensor.dtype,
            kv_data_type=self._pool.tensor.dtype,
        )


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


@dataclass(frozen=True, slots=True)
class _PageTable:
    """Sequences' pages as FlashInfer takes them: compressed rows. The offsets and lengths stay on
    the host, where its planner reads them."""

    offsets: torch.Tensor  # [sequences + 1], int32
    pages: torch.Tensor  # [pages of all], int32, on the device
    last_page_lengths: torch.Tensor  # [sequences], int32, in [1, page_size]

    @classmethod
    def of(cls, tables: list[Indices], lengths: Indices, pool: KvPool) -> "_PageTable":
        pages = _int32(np.concatenate(tables))
        return cls(
            offsets=_offsets([len(table) for table in tables]),
            pages=pages.to(pool.tensor.device, non_blocking=True),
            last_page_lengths=_int32((lengths - 1) % pool.page_size + 1),
        )


def _offsets(counts: list[int]) -> torch.Tensor:
    """[0, counts[0], counts[0] + counts[1], ...] in int32."""
    return _int32(np.concatenate(([0], np.cumsum(counts))))


def _int32(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _workspace(pool: KvPool) -> torch.Tensor:
    return torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=pool.tensor.device)
