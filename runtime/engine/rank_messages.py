"""What rank 0 of a tensor-parallel model says to the others, in the order in which they do it. Pickled,
between processes of one worker. No torch.
"""

from dataclasses import dataclass, replace

import numpy as np

from mserve.runtime.engine.inputs import Indices, StepInputs
from mserve.runtime.engine.moves import Moves

_NO_PAGES = np.zeros(0, np.int64)
SHARED_BYTES = 2 << 20
"""Of KV that goes to or comes from one rank at a time."""


@dataclass(frozen=True, slots=True)
class RankSpec:
    """What a rank is started with: what is the same for all, then its own device and place."""

    model: str
    is_dummy: bool
    dtype: str
    attention: str | None
    page_size: int
    threads: int
    device: str = ""
    rank: int = 0
    degree: int = 1
    port: int = 0  # on the loopback, where the ranks meet


@dataclass(frozen=True, slots=True)
class Allocate:
    """KV memory, in place of any before. Answered."""

    num_pages: int
    host_pages: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `by_layer`: after storing each layer's KV, wait for a Go, and do what comes before
    it. Decodes' page tables travel as one array: each array costs microseconds of every step."""

    packed: StepInputs  # without `decode_pages`
    decode_pages: Indices  # of all, one after another
    decode_ends: Indices  # of each, among them
    by_layer: bool

    @classmethod
    def of(cls, inputs: StepInputs, by_layer: bool) -> "Step":
        tables = inputs.decode_pages
        ends = np.cumsum([len(table) for table in tables], dtype=np.int64)
        pages = np.concatenate((_NO_PAGES, *tables))
        return cls(replace(inputs, decode_pages=()), pages, ends, by_layer)

    @property
    def inputs(self) -> StepInputs:
        begins = (0, *self.decode_ends)
        spans = zip(begins, self.decode_ends, strict=False)
        tables = tuple(self.decode_pages[begin:end] for begin, end in spans)
        return replace(self.packed, decode_pages=tables)


@dataclass(frozen=True, slots=True)
class Go:
    """Computes on, after a layer."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """KV of positions [begin, end) of a layer, in the wire form with the rank's own heads: from
    `pages` into the shared memory, or the other way. Answered."""

    is_write: bool
    pages: Indices
    layer: int
    begin: int
    end: int


Command = RankSpec | Allocate | Moves | Step | Go | Transfer
Answer = str
"""What is wrong, "" if nothing is."""
