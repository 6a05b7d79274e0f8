"""One plan's work on one worker, as the engine sees it: a token sequence whose KV is computed here,
matched in the cache or received from another worker, in any mixture.

Position ranges of a sequence, n = num_prompt:

    [0, num_matched)            from the prefix cache, pinned at reservation
    receives[i] = [begin, end)  written by a sender; the frontier jumps over it once it has arrived
    everything else below compute_end is computed here, in chunks
    num_computed                the frontier: KV of [0, num_computed) is in `pages`, every layer
    pages[:num_shared]          are blocks of the prefix cache, read-only; the others are its own

What is not received is computed, whatever the plan hoped the cache would have. Owned and changed by
the engine only; the runner and the transfers read it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from mserve.runtime.messages import Sampling

FinishReason = Literal["stop", "length"]
Block = tuple[int, bytes]  # its chained key, and its tokens (int32 little endian)


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
    computed: bool = False  # all of its KV is here, and that was reported
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
    receives: list[Receive] = field(default_factory=list)  # disjoint, by position
    sends: list[Send] = field(default_factory=list)
    priority: float = 0.0  # higher is served first
    deadline_s: float | None = None  # from arrival: the first token is wanted by then
    commit: bool = False  # what is held at the end is kept as cache (replicate)

    state: SequenceState = SequenceState.WAITING
    arrival_s: float = 0.0
    order: int = 0  # of arrival at this engine: smaller is older
    pages: array[int] = field(default_factory=lambda: array("i"))
    blocks: list[Block] = field(default_factory=list)  # the whole ones of `tokens` so far
    num_shared: int = 0  # in pages
    num_holds: int = 0  # transfers that read or write the pages now
    num_matched: int = 0
    num_computed: int = 0
    num_received: int = 0  # tokens whose KV came from another worker
    num_prefilled: int = 0  # tokens of the prompt computed here, again after a preemption
    started: bool = False  # reserved at least once, and that was reported
    stopping: bool = False  # its text is complete: the next token ends it
    generated: bool = False  # its generation has ended; only transfers keep it

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def started_steps(self) -> list[str]:
        """The steps that begin when it has pages; a prep_recv begins when its sender is there."""
        steps = [send.step for send in self.sends]
        return steps if self.generate_step is None else [*steps, self.generate_step]

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens not computed here: matched or received, less what a preemption cost."""
        return max(0, self.num_prompt - self.num_prefilled)

    @property
    def is_generating(self) -> bool:
        return self.generate_step is not None and not self.generated

    @property
    def awaits_tokens(self) -> bool:
        """What is drawn for it is its own. A step planned ahead may draw for one that has ended."""
        return self.state is SequenceState.RUNNING and self.is_generating

    @property
    def is_decoding(self) -> bool:
        """Only the last token's KV is missing: the next step is a decode step."""
        return (
            self.num_computed == len(self.tokens) - 1 and self.num_output > 0 and self.is_generating
        )

    @property
    def is_stalled(self) -> bool:
        """It has pages and nothing to do with them until another worker acts."""
        if self.state is not SequenceState.RUNNING or self.is_decoding:
            return False
        return self.num_computed >= self.compute_stop

    @property
    def may_generate(self) -> bool:
        """It generates, or holds what it receives for a `start_generate` still to come."""
        if self.generate_step is not None:
            return True
        return bool(self.receives) and not self.sends and not self.commit

    @property
    def is_eligible(self) -> bool:
        """Pages may be reserved: a sender is there to fill them, or what is sent on begins before
        what is received."""
        if not self.receives or any(receive.opened for receive in self.receives):
            return True
        return any(send.begin < self.receives[0].begin for send in self.sends)

    @property
    def is_preemptible(self) -> bool:
        """Nobody else reads or writes its pages, nor is about to."""
        transfers_done = all(r.arrived for r in self.receives) and all(s.done for s in self.sends)
        return transfers_done and not self.num_holds

    @property
    def is_complete(self) -> bool:
        """Nothing is left to do, and nothing more is expected under its key."""
        transfers_done = all(s.done for s in self.sends) and all(r.arrived for r in self.receives)
        if self.is_generating or not transfers_done:
            return False
        return self.generated or (self.num_computed >= self.compute_end and not self.may_generate)

    @property
    def compute_stop(self) -> int:
        """Where computing must halt for now: before the next receive, else at its target."""
        for receive in self.receives:
            if self.num_computed < self._receivable(receive):
                return max(self.num_computed, receive.begin)
        return len(self.tokens) if self.is_generating else self.compute_end

    @property
    def backlog(self) -> int:
        """Positions before the first new token, or the end, that are to be computed here."""
        if self.is_decoding:
            return 0
        end = len(self.tokens) if self.is_generating else self.compute_end
        received = sum(
            max(0, self._receivable(r) - max(r.begin, self.num_computed)) for r in self.receives
        )
        return max(0, end - self.num_computed - received)

    def num_reused(self, begin: int, end: int) -> int:
        """How many of [begin, end) were matched or received."""
        matched = max(0, min(end, self.num_matched) - begin)
        begin = max(begin, self.num_matched)
        received = sum(
            max(0, min(end, r.end) - max(begin, r.begin)) for r in self.receives if r.arrived
        )
        return matched + received

    def advance(self) -> None:
        """Moves the frontier over ranges that have arrived, up to the next gap.

        The last token of a generating sequence always runs, for its logits, also where its KV is
        there already.
        """
        for receive in self.receives:
            end = self._receivable(receive)
            if receive.arrived and receive.begin <= self.num_computed < end:
                self.num_received += end - self.num_computed
                self.num_computed = end
        if self.is_generating:
            self.num_computed = min(self.num_computed, len(self.tokens) - 1)

    def _receivable(self, receive: Receive) -> int:
        return min(receive.end, self.num_prompt - 1) if self.is_generating else receive.end

    def finish_reason(
        self, eos_token_ids: frozenset[int], max_model_len: int
    ) -> FinishReason | None:
        """Whether the newest token ends the answer. Stop strings are seen outside (`stopping`)."""
        sampling, token = self.sampling, self.tokens[-1]
        assert sampling is not None, f"{self.key} generates without sampling"
        if self.stopping:
            return "stop"
        num_output = len(self.tokens) - self.num_prompt
        if sampling.grammar and token in eos_token_ids:
            return "stop"  # it lets the end through where its form is complete, never before
        if num_output > sampling.min_tokens:
            is_eos = token in eos_token_ids and not sampling.ignore_eos
            if is_eos or token in sampling.stop_token_ids:
                return "stop"
        is_full = num_output >= sampling.max_tokens or len(self.tokens) >= max_model_len
        return "length" if is_full else None

    def restart(self) -> None:
        """Back to waiting without pages; what was generated is now to be computed like a prompt."""
        assert self.is_preemptible, f"{self.key} is read or written by a transfer: it must stay"
        self.state = SequenceState.WAITING
        self.receives = []
        self.num_matched = self.num_computed = 0
