"""From a plan call to a sequence, or a refusal: everything about a call that can be wrong is found
here, before anything changes. Functions of values; no pages, no queues.
"""

from array import array
from math import isfinite

import numpy as np

from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.sequence import Receive, Send, Sequence
from mserve.runtime.errors import BadRequest, Conflict, NotFound, TooLarge, Unprocessable
from mserve.runtime.messages import (
    CommitCall,
    PlanCall,
    PrepRecvCall,
    ReleaseCall,
    RemoteSendCall,
    Sampling,
    StartGenerateCall,
)


def new_sequence(call: PlanCall, config: EngineConfig) -> Sequence:
    """A sequence of the call's tokens that is asked for nothing yet; see `extend`.

    Raises BadRequest, TooLarge or Unprocessable for tokens that cannot be served.
    """
    if len(call.tokens) % 4:
        raise BadRequest("A prompt is int32 token ids: its bytes must come in fours.")
    tokens = array("i")
    tokens.frombytes(call.tokens)
    if not tokens:
        raise Unprocessable("The prompt has no tokens.", param="tokens")
    if len(tokens) > config.max_model_len:
        raise TooLarge(
            f"The prompt has {len(tokens)} tokens; the model takes {config.max_model_len}."
        )
    largest = np.frombuffer(tokens, dtype=np.uintc).max()  # of negative ids: beyond any vocabulary
    if largest >= (config.vocab_size or 1 << 31):
        raise Unprocessable("The prompt has token ids outside of the vocabulary.", param="tokens")
    if not isfinite(call.priority) or not isfinite(call.deadline_s or 0.0):
        raise Unprocessable("Priority and deadline must be finite.", param="priority")
    return Sequence(
        key=call.key,
        tokens=tokens,
        num_prompt=len(tokens),
        salt=call.salt,
        priority=call.priority,
        deadline_s=call.deadline_s,
    )


def check_same(sequence: Sequence, call: PlanCall) -> None:
    """Raises Conflict unless a further call is about the sequence's own prompt."""
    prompt = sequence.tokens[: sequence.num_prompt].tobytes()
    if call.tokens != prompt or call.salt != sequence.salt:
        raise Conflict(f"Plan {call.key} came before with other tokens or another salt.")


def extend(sequence: Sequence, call: PlanCall, config: EngineConfig) -> None:
    """Adds the call's steps to its sequence, all of them or, with an error, none.

    Raises Conflict (a second generation, a ticket with another range), NotFound (no such ticket),
    Unprocessable (ranges, sampling) or TooLarge (it could never run).
    """
    if not call.steps:
        raise Unprocessable("The call has no steps.", param="steps")
    extended = _Extension(sequence, config)
    for step in call.steps:
        extended.add(step)
    extended.check()
    extended.apply()


def drop_receive(sequence: Sequence, ticket: str) -> None:
    """Forgets a ticket: what it has not brought is computed here if it is needed at all."""
    sequence.receives = [r for r in sequence.receives if r.ticket != ticket]
    sequence.compute_end = _required_end(sequence)


def _required_end(sequence: Sequence) -> int:
    """Prompt positions that must be held for everything asked of the sequence."""
    if sequence.generate_step is not None:
        return sequence.num_prompt
    return _last_end(sequence.receives, sequence.sends)


def _last_end(receives: list[Receive], sends: list[Send]) -> int:
    return max([0, *(r.end for r in receives), *(s.end for s in sends)])


class _Extension:
    """What a sequence would be after a call."""

    def __init__(self, sequence: Sequence, config: EngineConfig) -> None:
        self._sequence = sequence
        self._config = config
        self._receives = list(sequence.receives)
        self._sends = list(sequence.sends)
        self._commit = sequence.commit
        self._generate_step = sequence.generate_step
        self._sampling = sequence.sampling

    def add(
        self,
        step: PrepRecvCall | RemoteSendCall | StartGenerateCall | CommitCall | ReleaseCall,
    ) -> None:
        match step:
            case PrepRecvCall():
                self._add_receive(step)
            case RemoteSendCall():
                self._add_send(step)
            case StartGenerateCall():
                self._add_generate(step)
            case CommitCall():
                self._find(step.ticket)
                self._commit = True
            case ReleaseCall():
                self._receives.remove(self._find(step.ticket))

    def _add_receive(self, step: PrepRecvCall) -> None:
        self._check_range(step.step, step.begin, step.end)
        for receive in self._receives:
            if receive.ticket == step.ticket:
                if (receive.begin, receive.end) != (step.begin, step.end):
                    raise Conflict(f"Ticket {step.ticket} came before with another range.")
                return
            if step.begin < receive.end and receive.begin < step.end:
                raise Unprocessable(f"Tickets {step.ticket} and {receive.ticket} overlap.")
        if self._sequence.started and not self._has_place(step):
            raise Conflict(f"Plan {self._sequence.key} runs already; ticket {step.ticket} is late.")
        self._receives.append(Receive(step.ticket, step.begin, step.end))
        self._receives.sort(key=lambda receive: receive.begin)

    def _has_place(self, step: PrepRecvCall) -> bool:
        """The range has its pages, and no chunk under way writes there."""
        held = len(self._sequence.pages) * self._config.page_size
        return self._sequence.compute_stop <= step.begin and step.end <= held

    def _add_send(self, step: RemoteSendCall) -> None:
        self._check_range(step.step, step.begin, step.end)
        if all(send.step != step.step for send in self._sends):
            self._sends.append(Send(step.step, step.begin, step.end))

    def _add_generate(self, step: StartGenerateCall) -> None:
        if self._generate_step is not None:
            raise Conflict(f"Plan {self._sequence.key} generates already.")
        if not 0 <= step.begin < self._sequence.num_prompt:
            raise Unprocessable(
                f"Step {step.step} begins at {step.begin}, outside of the prompt.", param="begin"
            )
        _check_sampling(step.sampling)
        self._generate_step, self._sampling = step.step, step.sampling

    def _find(self, ticket: str) -> Receive:
        for receive in self._receives:
            if receive.ticket == ticket:
                return receive
        raise NotFound(f"Plan {self._sequence.key} has no ticket {ticket} here.")

    def _check_range(self, step: str, begin: int, end: int) -> None:
        if not 0 <= begin <= end <= self._sequence.num_prompt:
            raise Unprocessable(
                f"Step {step} has the range [{begin}, {end}); the prompt has "
                f"{self._sequence.num_prompt} tokens."
            )

    def check(self) -> None:
        """Raises TooLarge where all pages together, or the model, could not hold it."""
        end = _last_end(self._receives, self._sends)
        if self._generate_step is not None:
            end = self._sequence.num_prompt
            if end >= self._config.max_model_len:
                raise TooLarge(
                    f"The prompt has {end} tokens; with its answer the model takes "
                    f"{self._config.max_model_len}."
                )
        if end > self._config.capacity:
            raise TooLarge(f"{end} tokens do not fit: the KV cache holds {self._config.capacity}.")

    def apply(self) -> None:
        sequence = self._sequence
        sequence.receives, sequence.sends = self._receives, self._sends
        sequence.commit = self._commit
        sequence.generate_step, sequence.sampling = self._generate_step, self._sampling
        sequence.compute_end = _required_end(sequence)


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_tokens < 1:
        raise Unprocessable("max_tokens must be at least 1.", param="max_tokens")
    if not 0 <= sampling.min_tokens <= sampling.max_tokens:
        raise Unprocessable("min_tokens must lie in 0..max_tokens.", param="min_tokens")
