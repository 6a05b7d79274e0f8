"""Attention over paged KV: the interface of the backends, and the one that every device has.

A backend turns a step's inputs into a plan once, and applies the plan in every layer. It reads the
pool and never writes it: a step's own keys and values are in their pages before it is called.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from mserve.runtime.engine.inputs import ChunkSpan, Indices, StepInputs
from mserve.runtime.engine.kv_pool import KvPool

_SPARE_PAGES = 8
"""Padding that costs less than a group of its own."""


class StepAttention(Protocol):
    """The attention of one step."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Every row's query over its sequence's positions up to its own.

        q [rows, heads, head_dim]; k, v [rows, kv_heads, head_dim], the rows' own, already in the
        pool. Returns [rows, heads, head_dim].
        """
        ...


class Attention(Protocol):
    """A backend, bound to a pool."""

    def plan(self, inputs: StepInputs) -> StepAttention: ...


class GatheredAttention:
    """torch's scaled_dot_product_attention over pages copied side by side, on any device.

    `window`: how many positions one attends to, its own included; None for all before it. Decoding sequences are padded to the longest of their group; groups keep the padding under half.
    """

    def __init__(self, pool: KvPool, window: int | None = None) -> None:
        self._pool = pool
        self._window = window

    def plan(self, inputs: StepInputs) -> "GatheredStep":
        return GatheredStep(
            pool=self._pool,
            chunks=[_plan_chunk(self._pool, span, self._window) for span in inputs.chunks],
            decode_begin=inputs.decode_begin,
            groups=[
                _plan_group(self._pool, inputs, members, self._window)
                for members in decode_groups(inputs)
            ],
        )


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """`pages` is None for a chunk without a prefix: it sees only its own rows, causally."""

    begin_row: int
    end_row: int
    length: int
    pages: torch.Tensor | None  # [pages]
    mask: torch.Tensor | None  # [rows, length], added to the scores; None: causal, or one row


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Decoding sequences of similar length. `members` is None if the group has all of them."""

    members: torch.Tensor | None  # [n], indices among the decoding rows
    length: int
    pages: torch.Tensor  # [n * pages of the longest]
    mask: torch.Tensor | None  # [n, 1, 1, length], None if all have that length


@dataclass(frozen=True, slots=True)
class GatheredStep:
    pool: KvPool
    chunks: list[ChunkPlan]
    decode_begin: int
    groups: list[GroupPlan]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if not self.chunks and len(self.groups) == 1:
            return self._decode(layer, q, self.groups[0])
        out = torch.empty_like(q)
        for chunk in self.chunks:
            rows = slice(chunk.begin_row, chunk.end_row)
            out[rows] = self._prefill(layer, chunk, q[rows], k[rows], v[rows])
        decode_q = q[self.decode_begin :]
        decode_out = out[self.decode_begin :]
        for group in self.groups:
            if group.members is None:
                decode_out.copy_(self._decode(layer, decode_q, group))
            else:
                result = self._decode(layer, decode_q[group.members], group)
                decode_out.index_copy_(0, group.members, result)
        return out

    def _prefill(
        self, layer: int, chunk: ChunkPlan, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """q [rows, heads, head_dim] of one chunk; the result has its shape."""
        if chunk.pages is not None:
            k, v = self.pool.gather(layer, chunk.pages, 1)[:, 0, : chunk.length]
        out = functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None],  # [1, heads, rows, head_dim]
            k.transpose(0, 1)[None],  # [1, kv_heads, length, head_dim]
            v.transpose(0, 1)[None],
            attn_mask=chunk.mask,
            is_causal=chunk.mask is None and chunk.pages is None,
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)

    def _decode(self, layer: int, q: torch.Tensor, group: GroupPlan) -> torch.Tensor:
        """q [n, heads, head_dim], one row per sequence; the result has its shape.

        The queries that share a key-value head stand as that head's rows, so that no key is
        repeated: without a causal mask, rows and heads are alike.
        """
        n, heads, head_dim = q.shape
        k, v = self.pool.gather(layer, group.pages, n)[:, :, : group.length]
        out = functional.scaled_dot_product_attention(
            q.view(n, k.shape[2], -1, head_dim),  # [n, kv_heads, heads per kv_head, head_dim]
            k.transpose(1, 2),  # [n, kv_heads, length, head_dim]
            v.transpose(1, 2),
            attn_mask=group.mask,
        )
        return out.reshape(n, heads, head_dim)


def decode_groups(inputs: StepInputs) -> list[list[int]]:
    """Splits the decoding sequences by length so that padding stays small; [] without any."""
    counts = [len(pages) for pages in inputs.decode_pages]
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(counts)), key=counts.__getitem__, reverse=True):
        if not groups or counts[index] + max(_SPARE_PAGES, counts[index]) < longest:
            groups.append([])
            longest = counts[index]
        groups[-1].append(index)
    return groups


def _plan_chunk(pool: KvPool, span: ChunkSpan, window: int | None) -> ChunkPlan:
    rows, is_first = span.end - span.begin, span.begin == 0
    is_cut = window is not None and span.end > window
    return ChunkPlan(
        begin_row=span.row,
        end_row=span.row + rows,
        length=span.end,
        pages=None if is_first else torch.from_numpy(span.pages).to(pool.tensor.device),
        mask=_chunk_mask(pool, span, window) if is_cut or (rows > 1 and not is_first) else None,
    )


def _chunk_mask(pool: KvPool, span: ChunkSpan, window: int | None) -> torch.Tensor:
    """[rows, end]: row i is position begin + i, and sees itself and what is before it."""
    rows = span.end - span.begin
    mask = torch.full((rows, span.end), -torch.inf, dtype=pool.tensor.dtype)
    mask.triu_(span.begin + 1)
    if window is not None:
        too_old = torch.ones((rows, span.end), dtype=torch.bool).tril_(span.begin - window)
        mask.masked_fill_(too_old, -torch.inf)
    return mask.to(pool.tensor.device)


def _plan_group(
    pool: KvPool, inputs: StepInputs, members: list[int], window: int | None
) -> GroupPlan:
    device = pool.tensor.device
    everyone = len(members) == len(inputs.decode_pages)
    members = sorted(members)
    lengths = inputs.decode_lengths[members]
    length = int(lengths.max())
    visible = np.arange(length) < lengths[:, None]  # [n, length]
    if window is not None:
        visible &= np.arange(length) >= lengths[:, None] - window
    mask = torch.zeros(visible.shape, dtype=pool.tensor.dtype)
    mask.masked_fill_(torch.from_numpy(~visible), -torch.inf)
    return GroupPlan(
        members=None if everyone else torch.tensor(members, device=device),
        length=length,
        pages=torch.from_numpy(_padded([inputs.decode_pages[i] for i in members])).to(device),
        mask=None if visible.all() else mask[:, None, None].to(device),
    )


def _padded(tables: list[Indices]) -> Indices:
    """Page tables one after another, each padded to the longest with page 0 (masked later)."""
    width = max(map(len, tables))
    padded = np.zeros((len(tables), width), np.int64)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    return padded.reshape(-1)
