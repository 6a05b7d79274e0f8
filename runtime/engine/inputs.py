"""A batch in numbers: the flat arrays one step of a model needs. numpy only, no torch.

Rows are tokens, packed without padding: every chunk's, in order, then one per decoding sequence.

    rows     | chunk 0 ...... | chunk 1 . | d d d d |
             0                           decode_begin  num_rows
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mserve.runtime.engine.batching import Batch, Chunk, Pages
from mserve.runtime.engine.sequence import Sequence

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Rows [row, row + end - begin) are positions [begin, end) of a sequence on `pages`."""

    row: int
    begin: int
    end: int
    pages: Indices  # [ceil(end / page_size)]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`decode_lengths` counts the positions a decoding row attends to, its own included."""

    token_ids: Indices  # [rows]
    positions: Indices  # [rows]
    slots: Indices  # [rows], page * page_size + offset
    chunks: tuple[ChunkSpan, ...]
    decode_begin: int
    decode_lengths: Indices  # [decodes]
    decode_pages: tuple[Indices, ...]  # per decoding sequence: [ceil(length / page_size)]
    sampled_rows: Indices  # in the order of `batch.sampled`

    @classmethod
    def of(cls, batch: Batch, page_size: int) -> "StepInputs":
        chunks = _spans(batch.prefill, page_size)
        decode_begin = sum(span.end - span.begin for span in chunks)
        token_ids = [
            np.asarray(chunk.sequence.tokens[chunk.begin : chunk.end], np.int64)
            for chunk in batch.prefill
        ]
        positions = [np.arange(span.begin, span.end) for span in chunks]
        slots = [
            slots_of(span.pages, page_size, rows)
            for span, rows in zip(chunks, positions, strict=True)
        ]
        decode_positions, decode_slots = _decode_places(batch.decode, page_size)
        last_token = np.array([sequence.tokens[-1] for sequence in batch.decode], np.int64)
        return cls(
            token_ids=np.concatenate([*token_ids, last_token]),
            positions=np.concatenate([*positions, decode_positions]),
            slots=np.concatenate([*slots, decode_slots]),
            chunks=chunks,
            decode_begin=decode_begin,
            decode_lengths=decode_positions + 1,
            decode_pages=tuple(
                np.asarray(sequence.pages[: sequence.num_computed // page_size + 1], np.int64)
                for sequence in batch.decode
            ),
            sampled_rows=_sampled_rows(batch, chunks, decode_begin),
        )


def padded_decodes(
    inputs: StepInputs, num_rows: int, spare_page: int, page_size: int
) -> StepInputs:
    """A step of decodes alone, with rows added up to `num_rows`: token 0 at position 0 of the spare
    page, of which nothing is ever read for anyone else."""
    spare = num_rows - len(inputs.token_ids)
    assert not inputs.chunks, "only decodes are padded to a fixed number of rows"
    assert spare >= 0, f"{len(inputs.token_ids)} rows do not fit in {num_rows}"
    zeros = np.zeros(spare, np.int64)
    return StepInputs(
        token_ids=np.concatenate((inputs.token_ids, zeros)),
        positions=np.concatenate((inputs.positions, zeros)),
        slots=np.concatenate((inputs.slots, zeros + spare_page * page_size)),
        chunks=(),
        decode_begin=0,
        decode_lengths=np.concatenate((inputs.decode_lengths, zeros + 1)),
        decode_pages=inputs.decode_pages + (np.array([spare_page]),) * spare,
        sampled_rows=inputs.sampled_rows,
    )


def slots_of(pages: Indices, page_size: int, positions: Indices) -> Indices:
    """Where each position lies in a pool seen as one row of slots."""
    return pages[positions // page_size] * page_size + positions % page_size


def page_indices(pages: Pages, begin: int, end: int) -> Indices:
    """pages[begin:end] as an array."""
    return np.fromiter((pages[index] for index in range(begin, end)), np.int64, end - begin)


def _spans(chunks: Items[Chunk], page_size: int) -> tuple[ChunkSpan, ...]:
    spans = []
    row = 0
    for chunk in chunks:
        num_pages = -(-chunk.end // page_size)
        pages = np.asarray(chunk.sequence.pages[:num_pages], np.int64)
        assert len(pages) == num_pages, f"{chunk.sequence.key} lacks pages for its chunk"
        spans.append(ChunkSpan(row, chunk.begin, chunk.end, pages))
        row += chunk.end - chunk.begin
    return tuple(spans)


def _decode_places(decodes: Items[Sequence], page_size: int) -> tuple[Indices, Indices]:
    """(position, slot) of the token each decoding sequence computes: its last one."""
    positions = [sequence.num_computed for sequence in decodes]
    slots = [
        sequence.pages[position // page_size] * page_size + position % page_size
        for sequence, position in zip(decodes, positions, strict=True)
    ]
    return np.array(positions, np.int64), np.array(slots, np.int64)


def _sampled_rows(batch: Batch, spans: Items[ChunkSpan], decode_begin: int) -> Indices:
    last_rows = [
        span.row + span.end - span.begin - 1
        for chunk, span in zip(batch.prefill, spans, strict=True)
        if chunk.sample
    ]
    decode_rows = range(decode_begin, decode_begin + len(batch.decode))
    return np.array([*last_rows, *decode_rows], np.int64)
