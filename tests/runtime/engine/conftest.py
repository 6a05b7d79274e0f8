"""Runners without an engine around them; and a stand-in for FlashInfer that computes the same with torch
and checks what its documentation asks for."""

import random
import sys
from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Items
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

LEAVES = ("attention_flashinfer", "operations_flashinfer")


class ByHand:
    """Sequences that a test runs itself, as an engine would."""

    @staticmethod
    def sequences(
        prompts: Items[Items[int]],
        *,
        num_pages: int,
        page_size: int = 16,
        num_tokens: int = 64,
        sampling: Sampling | None = None,
    ) -> list[Sequence]:
        """Answers have `num_tokens`; pages are scattered over a pool of `num_pages`."""
        free = list(range(num_pages))
        random.Random(7).shuffle(free)
        sequences = []
        for index, prompt in enumerate(prompts):
            count = -(-(len(prompt) + num_tokens) // page_size)
            pages, free = free[:count], free[count:]
            assert len(pages) == count, "the pool is too small for these prompts"
            sequences.append(
                Sequence(
                    key=f"s{index}",
                    tokens=array("i", prompt),
                    num_prompt=len(prompt),
                    generate_step="generate",
                    sampling=sampling or Sampling(max_tokens=num_tokens, temperature=0.0),
                    pages=array("i", pages),
                )
            )
        return sequences

    @staticmethod
    def prompts(lengths: Items[int]) -> list[list[int]]:
        rng = random.Random(3)
        return [[rng.randrange(5, 2000) for _ in range(length)] for length in lengths]

    @staticmethod
    def step(runner: TorchRunner, batch: Batch) -> None:
        tokens = runner.run(batch).tokens
        assert tokens is not None
        for chunk in batch.prefill:
            chunk.sequence.num_computed = chunk.end
        for sequence in batch.decode:
            sequence.num_computed += 1
        for sequence, token in zip(batch.sampled, tokens, strict=True):
            sequence.tokens.append(token)

    @staticmethod
    def goes_on(sequence: Sequence) -> bool:
        assert sequence.sampling is not None, "it has an answer"
        return sequence.num_output < sequence.sampling.max_tokens

    @staticmethod
    def generate(
        runner: TorchRunner, sequences: Items[Sequence], chunk_tokens: int = 4096
    ) -> list[list[int]]:
        """Their whole answers; two sequences prefill at a time while the others decode."""
        while unfinished := [s for s in sequences if ByHand.goes_on(s)]:
            prefill = tuple(
                Chunk(s, s.num_computed, end, sample=end == s.num_prompt)
                for s in [s for s in unfinished if not s.is_decoding][:2]
                for end in [min(s.num_prompt, s.num_computed + chunk_tokens)]
            )
            decode = tuple(s for s in unfinished if s.is_decoding)
            ByHand.step(runner, Batch(prefill, decode))
        return [list(sequence.tokens[sequence.num_prompt :]) for sequence in sequences]


@pytest.fixture
def by_hand() -> type[ByHand]:
    return ByHand


class PagedAttention:
    """Queries over pages, from a plan: what both wrappers have in common."""

    def __init__(self, workspace: torch.Tensor, layout: str = "NHD", **options: Any) -> None:
        assert layout == "NHD"
        assert workspace.dtype == torch.uint8
        assert not workspace.any(), "it must be zero when first used"
        self.options = options
        self.tables: list[torch.Tensor] = []

    def remember(
        self,
        query_offsets: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        page_size: int,
        window_left: int,
    ) -> None:
        for table in (query_offsets, offsets, pages, last_lengths):
            assert table.dtype == torch.int32
        self.tables = [query_offsets, offsets, pages, last_lengths]
        self.page_size, self.window_left = page_size, window_left

    def run(
        self, q: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor], causal: bool = True
    ) -> torch.Tensor:
        assert q.is_contiguous()
        query_offsets, offsets, pages, last_lengths = self.tables
        parts = []
        for index, last in enumerate(last_lengths.tolist()):
            mine = pages[offsets[index] : offsets[index + 1]].long()
            length = (len(mine) - 1) * self.page_size + last
            keys, values = (part[mine].flatten(0, 1)[:length].transpose(0, 1) for part in kv)
            queries = q[query_offsets[index] : query_offsets[index + 1]].transpose(0, 1)
            mask = self._mask(queries.shape[1], length)
            out = functional.scaled_dot_product_attention(
                queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
            )
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    def _mask(self, rows: int, length: int) -> torch.Tensor:
        places = torch.arange(length - rows, length)[:, None] - torch.arange(length)
        seen = places >= 0
        return seen if self.window_left < 0 else seen & (places <= self.window_left)


class PrefillWrapper(PagedAttention):
    def plan(
        self,
        query_offsets: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        causal: bool,
        window_left: int,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        assert causal
        assert num_heads % num_kv_heads == 0
        self.remember(query_offsets, offsets, pages, last_lengths, page_size, window_left)


class DecodeWrapper(PagedAttention):
    def plan(
        self,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        window_left: int,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        queries = torch.arange(len(offsets), dtype=torch.int32)
        self.remember(queries, offsets, pages, last_lengths, page_size, window_left)


class GraphDecodeWrapper(DecodeWrapper):
    """Reads its own buffers, wherever a plan came from; its batch size never changes."""

    def __init__(
        self,
        workspace: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        layout: str = "NHD",
        *,
        use_tensor_cores: bool,
    ) -> None:
        super().__init__(workspace, layout)
        assert len(offsets) == len(last_lengths) + 1
        self.buffers = (offsets, pages, last_lengths)

    def remember(
        self,
        query_offsets: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        page_size: int,
        window_left: int,
    ) -> None:
        assert len(last_lengths) == len(self.buffers[2]), "the batch size is fixed"
        assert len(pages) <= len(self.buffers[1]), "the pages' buffer is too small"
        for buffer, values in zip(self.buffers, (offsets, pages, last_lengths), strict=True):
            buffer[: len(values)] = values
        super().remember(query_offsets, *self.buffers, page_size, window_left)


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    assert x.dim() in (2, 3)
    return functional.rms_norm(x, weight.shape, weight, eps)


def fused_add_rmsnorm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> None:
    residual += x
    x.copy_(rmsnorm(residual, weight, eps))


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return functional.silu(x[..., :half]) * x[..., half:]


def apply_rope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin: torch.Tensor,
    is_neox: bool,
) -> None:
    assert is_neox
    assert cos_sin.dtype == torch.float32
    assert cos_sin.is_contiguous()
    cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)
    for x in (query, key):
        x = x.view(len(x), -1, head_size)  # as it does: without a copy
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        x.copy_(turned)


class Draws:
    """Keeps what it was asked, and takes the most probable."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def sampling_from_probs(self, probs: torch.Tensor, generator: Any) -> torch.Tensor:
        self.asked.append(("plain",))
        return self._most(probs)

    def top_k_top_p_sampling_from_probs(
        self,
        probs: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        filter_apply_order: str,
        generator: Any,
    ) -> torch.Tensor:
        assert filter_apply_order == "top_k_first"
        assert (top_k.dtype, top_p.dtype) == (torch.int32, torch.float32)
        self.asked.append((top_k.tolist(), [round(p, 3) for p in top_p.tolist()]))
        return self._most(probs)

    def _most(self, probs: torch.Tensor) -> torch.Tensor:
        assert probs.dtype == torch.float32
        assert torch.allclose(probs.sum(-1), torch.ones(len(probs)))
        return probs.argmax(-1).int()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`flashinfer`, as the leaves import it."""
    module: Any = ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = PrefillWrapper
    module.BatchDecodeWithPagedKVCacheWrapper = DecodeWrapper
    module.CUDAGraphBatchDecodeWithPagedKVCacheWrapper = GraphDecodeWrapper
    module.rmsnorm = rmsnorm
    module.fused_add_rmsnorm = fused_add_rmsnorm
    module.silu_and_mul = silu_and_mul
    module.apply_rope_with_cos_sin_cache_inplace = apply_rope
    module.sampling = Draws()
    names = [f"mserve.runtime.engine.{leaf}" for leaf in LEAVES]
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield module
    for name in names:
        sys.modules.pop(name, None)
