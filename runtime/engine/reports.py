"""What the engine has to report: events made from sequences, in order, until they are drained."""

from collections.abc import Iterable

from mserve.runtime.engine.batching import Draw
from mserve.runtime.engine.events import (
    BlocksChanged,
    EngineEvent,
    Generated,
    Reserved,
    SequenceDone,
    SequenceFailed,
    StepComputed,
    StepStarted,
)
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.sequence import FinishReason, Send, Sequence
from mserve.runtime.errors import RequestError


class Reports:
    def __init__(self) -> None:
        self._events: list[EngineEvent] = []

    def reserved(self, sequence: Sequence) -> None:
        self._events.append(Reserved(sequence.key, sequence.num_matched))

    def started(self, sequence: Sequence, steps: Iterable[str]) -> None:
        matched = {send.step: sequence.num_reused(send.begin, send.end) for send in sequence.sends}
        self._events.extend(
            StepStarted(sequence.key, step, matched.get(step, sequence.num_matched))
            for step in steps
        )

    def computed(self, sequence: Sequence, send: Send) -> None:
        reused = sequence.num_reused(send.begin, send.end)
        computed = send.end - send.begin - reused
        self._events.append(StepComputed(sequence.key, send.step, computed, reused))

    def generated(
        self, sequence: Sequence, draw: Draw, finished: FinishReason | None, count: int
    ) -> None:
        self._events.append(
            Generated(
                sequence.key,
                draw.token,
                finished,
                prompt_tokens=sequence.num_prompt,
                completion_tokens=sequence.num_output,
                cached_tokens=sequence.cached_tokens,
                repeated=count,
                logprobs=draw.logprobs,
            )
        )

    def done(self, sequence: Sequence) -> None:
        self._events.append(
            SequenceDone(
                sequence.key,
                matched=sequence.num_matched,
                received=sequence.num_received,
                computed=sequence.num_prefilled,
                generated=sequence.num_output,
            )
        )

    def failed(self, sequence: Sequence, error: RequestError) -> None:
        self._events.append(SequenceFailed(sequence.key, error))

    def drain(self, cache: KvCache) -> list[EngineEvent]:
        """All events since the last call; changes of the prefix cache come last."""
        evicted, stored = cache.take_changes()
        if evicted or stored:
            self._events.append(BlocksChanged(evicted, stored))
        events, self._events = self._events, []
        return events
