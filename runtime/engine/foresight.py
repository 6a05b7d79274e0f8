"""What a step that is under way will leave behind, as far as that is certain before its tokens are
known: what the overlapped loop plans the next step on.

Changes the sequences of a batch to what they will be, and back: the plain `commit` finds them as
`plan` left them. A token still to come stands as `unknown(row)`. Knows no pages.
"""

from mserve.runtime.engine.batching import Batch, unknown
from mserve.runtime.engine.scheduler import Scheduler
from mserve.runtime.engine.sequence import Sequence, SequenceState
from mserve.runtime.messages import Sampling


def needs_tokens(sampling: Sampling) -> bool:
    """Whether the next draw, or the report of this one, depends on tokens that a host has seen."""
    penalized = sampling.frequency_penalty or sampling.presence_penalty
    reweighted = penalized or sampling.repetition_penalty != 1.0
    return bool(sampling.grammar or reweighted or sampling.logprobs is not None)


class Foresight:
    """Of one batch at a time, between `foresee` and `take_back`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._before: list[tuple[Sequence, int, int]] = []  # num_computed and length of `tokens`

    def foresee(self, batch: Batch) -> bool:
        """As if the batch had been committed, except for what depends on its tokens' values.

        False, and then nothing is foreseen, if a draw of the next step needs those, or if it takes a
        preemption: pages are taken from nobody while a step may write them."""
        assert not self._before, "two batches are planned and not committed"
        if any(sequence.sampling and needs_tokens(sequence.sampling) for sequence in batch.sampled):
            return False
        self._change(batch)
        self._scheduler.expect(batch)
        if not self._scheduler.has_room():
            self.take_back()
            return False
        return True

    def _change(self, batch: Batch) -> None:
        """Those that have ended since the batch was planned stay as they are."""
        for chunk in batch.prefill:
            if chunk.sequence.state is SequenceState.RUNNING:
                self._move(chunk.sequence, chunk.end)
        for sequence in batch.decode:
            if sequence.awaits_tokens:
                self._move(sequence, sequence.num_computed + 1)
        for row, sequence in enumerate(batch.sampled):
            if sequence.awaits_tokens:
                sequence.tokens.append(unknown(row))

    def _move(self, sequence: Sequence, end: int) -> None:
        self._before.append((sequence, sequence.num_computed, len(sequence.tokens)))
        sequence.num_computed = end

    def take_back(self) -> None:
        """Nothing is foreseen any more."""
        for sequence, num_computed, length in self._before:
            sequence.num_computed = num_computed
            del sequence.tokens[length:]
        self._before.clear()
