"""What one engine step is: the batch that the scheduler forms and a runner executes. No torch here.

`ModelRunner` is the seam between the engine and the model: torch on CPU or CUDA, a fake in tests;
`StepCost` stands in for it where only time matters (simulation).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mserve.runtime.engine.moves import NO_MOVES, Moves
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Logprobs

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
    """Prefill chunks and decoding sequences of one step, on disjoint sequences. Without any, it is
    there for its moves.

    `repeat` is how many consecutive steps would be this same batch (its decodes one token longer
    each) if nothing arrived; `until` bounds that in time, for policies that age.
    """

    prefill: tuple[Chunk, ...]
    decode: tuple[Sequence, ...]
    repeat: int = 1
    until: float = float("inf")
    moves: Moves = NO_MOVES  # done first, once

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token in this step, in the order of `StepOutput.tokens`."""
        return [chunk.sequence for chunk in self.prefill if chunk.sample] + list(self.decode)

    @property
    def computes(self) -> bool:
        return bool(self.prefill or self.decode)


def unknown(row: int) -> int:
    """Stands among a sequence's tokens for the one that row `row` of `sampled` is to get in the step
    under way. No token: it is below 0."""
    return -1 - row


class Draw(NamedTuple):
    """What a sequence got."""

    token: int
    logprobs: Logprobs | None = None  # for those that asked


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a runner returns: one token per sequence of `batch.sampled`, or None in simulation.

    `logprobs` are in the same order, None for those that did not ask; empty if nobody did.
    """

    steps: int = 1
    tokens: list[int] | None = field(default=None)
    logprobs: tuple[Logprobs | None, ...] = ()

    def draws(self, count: int) -> Iterator[Draw]:
        """One for each of `count` sequences; in simulation token 0."""
        tokens = self.tokens if self.tokens is not None else [0] * count
        if self.logprobs:
            return map(Draw, tokens, self.logprobs)
        return map(Draw, tokens)


class DeviceLost(Exception):
    """The device computes nothing any more, whatever it is asked: only a new process can use it."""


class StepOutOfMemory(RuntimeError):
    """The device had no memory left for a batch, or for KV on its way out; less may fit."""


class ModelRunner(Protocol):
    """Executes batches. A runner owns the model and the KV memory, and no scheduling."""

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        """One step: the batch's moves, then KV of every computed position into its sequence's pages.

        The moves come before anything else touches a page, so a driver runs what it planned before
        it takes in KV of others. A runner that raises has done them, or raises MoveFailure.
        `on_layer(layer)` is called when the KV of that layer is written, while later layers are
        still to come; sends start there.
        """
        ...


class LaunchedStep(Protocol):
    def result(self) -> StepOutput:
        """Waits until the step is done."""
        ...


class LaunchingRunner(ModelRunner, Protocol):
    """One whose steps need not be waited for: what the overlapped loop drives."""

    def launch(self, batch: Batch, before: LaunchedStep | None) -> LaunchedStep:
        """Gives the device a step. Reads the sequences before it returns, and fails as `run` does.

        `before` is the step launched last, if it was not waited for: tokens `unknown(row)` are those
        that it samples. Steps and whatever else touches pages take effect in the order in which
        they were asked for.
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
