"""One plan's work on one worker, as the engine sees it: a token sequence whose KV is computed here,
matched in the cache or received from another worker, in any mixture.

Position ranges of a sequence, n = num_prompt:

    [0, num_matched)            from the prefix cache, pinned at reservation
    receives[i] = [begin, end)  written by a sender; the frontier jumps over it once it has arrived
    everything else below compute_end is computed here, in chunks
    num_computed                the frontier: KV of [0, num_computed) is in `pages`, every layer

What is not received is computed, whatever the plan hoped the cache would have. Owned and changed by
the engine only; the runner and the transfers read it.
"""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum

from mserve.runtime.messages import Sampling


class SequenceState(StrEnum):
    WAITING = "waiting"  # owns no pages
    RUNNING = "running"  # all prompt pages reserved; computing, receiving, decoding or sending
    FINISHED = "finished"


@dataclass(slots=True)
class Receive:
    """A range that comes under a ticket. `opened`: its sender is there and ready."""

    ticket: str
    begin: int
    end: int
    opened: bool = False
    arrived: bool = False


@dataclass(slots=True)
class Send:
    """A range that this worker sends; pages stay pinned until `done`."""

    step: str
    begin: int
    end: int
    done: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt, then what was generated. `pages[i]` holds positions [i*P, (i+1)*P)."""

    key: str
    tokens: array[int]
    num_prompt: int
    salt: bytes = b""
    generate_step: str | None = None
    sampling: Sampling | None = None
    compute_end: int = 0  # prompt positions this worker must hold; num_prompt if it generates
    receives: list[Receive] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    commit: bool = False  # what is held at the end is kept as cache (replicate)

    state: SequenceState = SequenceState.WAITING
    arrival_s: float = 0.0
    pages: array[int] = field(default_factory=lambda: array("i"))
    num_matched: int = 0
    num_computed: int = 0
    num_received: int = 0  # tokens whose KV came from another worker
    num_prefilled: int = 0  # tokens of the prompt computed here

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def is_decoding(self) -> bool:
        """Only the last token's KV is missing: the next step is a decode step."""
        return self.num_output > 0 and self.num_computed == len(self.tokens) - 1
