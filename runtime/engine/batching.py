"""What one engine step is: the batch that the scheduler forms and a runner executes. No torch here.

`ModelRunner` is the seam between the engine and the model: torch on CPU or CUDA, a fake in tests;
`StepCost` stands in for it where only time matters (simulation).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mserve.runtime.engine.sequence import Sequence

LayerHook = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Positions [begin, end) of a sequence to compute: of its prompt and, after a preemption, of its
    answer so far. `sample`: then draw a token."""

    sequence: Sequence
    begin: int
    end: int
    sample: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Prefill chunks and decoding sequences of one step, on disjoint sequences.

    `repeat` is how many consecutive steps would be this same batch (its decodes one token longer
    each) if nothing arrived; `until` bounds that in time, for policies that age.
    """

    prefill: tuple[Chunk, ...]
    decode: tuple[Sequence, ...]
    repeat: int = 1
    until: float = float("inf")

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token in this step, in the order of `StepOutput.tokens`."""
        return [chunk.sequence for chunk in self.prefill if chunk.sample] + list(self.decode)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a runner returns: one token per sequence of `batch.sampled`, or None in simulation."""

    steps: int = 1
    tokens: list[int] | None = field(default=None)


class ModelRunner(Protocol):
    """Executes batches. A runner owns the model and the KV memory, and no scheduling."""

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        """One step. Writes KV of every computed position into its sequence's pages.

        `on_layer(layer)` is called when the KV of that layer is written, while later layers are
        still to come; sends start there.
        """
        ...


class StepCost(Protocol):
    def step_time(self, batch: Batch) -> tuple[float, float]:
        """(seconds of the first step, seconds by which each further one is longer)."""
        ...


class KvStore(Protocol):
    """Reads and writes KV by page and position: what the transfers need of a KV pool.

    The wire form of (layer, [begin, end)) is [2 (K, V), end - begin, kv_heads, head_dim] in the
    pool's dtype, contiguous; it does not depend on the page size.
    """

    num_layers: int
    bytes_per_token_layer: int

    def read(self, pages: "Pages", layer: int, begin: int, end: int, out: memoryview) -> None: ...

    def write(self, pages: "Pages", layer: int, begin: int, end: int, data: memoryview) -> None: ...


class Pages(Protocol):
    """A sequence's page table: `pages[i]` is the page of positions [i*P, (i+1)*P)."""

    def __getitem__(self, index: int) -> int: ...

    def __len__(self) -> int: ...
