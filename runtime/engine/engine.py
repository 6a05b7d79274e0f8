"""The engine: plan calls go in, batches come out, what was computed goes back in, events come out.

    while there is work:                 # the driver: a process with a model, or a simulator
        batch = engine.plan(now)
        output = runner.run(batch)
        engine.commit(batch, output, now)
        for event in engine.drain(): ...

Owns the sequences. No clock, no await, no torch: `now` is an argument, in seconds. Knows neither
who asks nor how KV moves; the driver says when a sender has `opened` and when KV has `arrived`.
"""

from collections.abc import Iterable
from itertools import chain

from mserve.runtime.cluster.membership import WorkerStats
from mserve.runtime.engine import intake
from mserve.runtime.engine.batching import Batch, StepOutput
from mserve.runtime.engine.config import EngineConfig
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
from mserve.runtime.engine.scheduler import Scheduler
from mserve.runtime.engine.sequence import Receive, Send, Sequence, SequenceState
from mserve.runtime.errors import NoRoom, RequestError, TooLarge
from mserve.runtime.messages import PlanCall


class Engine:
    """One worker's sequences, from a call to the last event. Not thread safe."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.cache = KvCache(config.num_pages, config.page_size)
        self._scheduler = Scheduler(config, self.cache)
        self._sequences: dict[str, Sequence] = {}
        self._num_submitted = 0
        self._in_flight: Batch | None = None
        self._leaving: list[Sequence] = []  # ended, but a batch or a transfer still has their pages
        self._holds: dict[str, Sequence] = {}
        self._events: list[EngineEvent] = []

    def submit(self, call: PlanCall, now: float) -> Sequence:
        """Takes a plan's work; a further call with the same key adds to the same sequence.

        Raises BadRequest, Conflict, NoRoom, NotFound, TooLarge or Unprocessable, and then changes
        nothing.
        """
        sequence = self._sequences.get(call.key)
        if sequence is None:
            self._check_room()
            sequence = intake.new_sequence(call, self.config)
            sequence.arrival_s, sequence.order = now, self._num_submitted
        steps_before = sequence.started_steps
        intake.extend(sequence, call, self.config)
        if call.key not in self._sequences:
            self._sequences[call.key] = sequence
            self._num_submitted += 1
        if sequence.started:
            self._report_started(
                sequence, (s for s in sequence.started_steps if s not in steps_before)
            )
        self._settle(sequence)
        return sequence

    def plan(self, now: float) -> Batch | None:
        """The next step's batch, or None while there is nothing to compute. To be committed before
        the next one is planned. Pages are given out here, so events may follow without a batch."""
        assert self._in_flight is None, "a batch is planned and not committed"
        for sequence in self._scheduler.make_room():
            self._fail(sequence, _never_fits(sequence, self.config))
        for sequence in self._scheduler.admit():
            self._start(sequence)
        self._in_flight = self._scheduler.form()
        return self._in_flight

    def commit(self, batch: Batch, output: StepOutput, now: float) -> None:
        """Takes what a batch computed; its tokens stand in the order of `batch.sampled`."""
        assert batch is self._in_flight, "a batch is committed that is not the one in flight"
        self._land()
        for chunk in batch.prefill:
            self._computed(chunk.sequence, chunk.end)
        for sequence in batch.decode:
            self._decoded(sequence, output.steps)
        sampled = batch.sampled
        tokens = [0] * len(sampled) if output.tokens is None else output.tokens
        for sequence, token in zip(sampled, tokens, strict=True):
            self._generate(sequence, token, output.steps)
        for chunk in batch.prefill:
            self._settle(chunk.sequence)

    def abandon(self, batch: Batch, errors: dict[str, RequestError]) -> None:
        """Takes back a batch that a runner could not execute. The sequences in `errors` fail; for
        the others it is as if it had never been planned."""
        assert batch is self._in_flight, "a batch is abandoned that is not the one in flight"
        self._land()
        for key, error in errors.items():
            if key in self._sequences:
                self._fail(self._sequences[key], error)

    def opened(self, key: str, ticket: str, now: float) -> None:
        """The sender of this ticket is there: its sequence may be given pages. Unknown is over."""
        sequence, receive = self._receive(key, ticket)
        if sequence is not None and receive is not None:
            receive.opened = True
            self._settle(sequence)

    def arrived(self, key: str, ticket: str, now: float) -> None:
        """All KV of this ticket is in the sequence's pages, every layer of it."""
        sequence, receive = self._receive(key, ticket)
        if sequence is not None and receive is not None:
            assert sequence.state is SequenceState.RUNNING, f"KV arrived for {key} without pages"
            receive.arrived = True
            self._settle(sequence)

    def drop_receive(self, key: str, ticket: str, now: float) -> None:
        """Nothing more comes under this ticket (released, expired, sender lost). What is missing
        is computed here, if the sequence has a use for it."""
        sequence, receive = self._receive(key, ticket)
        if sequence is not None and receive is not None:
            intake.drop_receive(sequence, ticket)
            self._settle(sequence)

    def send_done(self, key: str, step: str, now: float) -> None:
        """All receivers of this step have its KV, or it was given up: its pages may go."""
        sequence = self._sequences.get(key)
        if sequence is None:
            return
        for send in sequence.sends:
            send.done = send.done or send.step == step
        self._settle(sequence)

    def hold(self, key: str, name: str) -> None:
        """A transfer of this name reads or writes the sequence's pages: they stay until `let_go`,
        even if the sequence ends before."""
        assert name not in self._holds, f"transfer {name} holds pages twice"
        sequence = self._holds[name] = self._sequences[key]
        sequence.num_holds += 1

    def let_go(self, name: str) -> None:
        """The transfer is over."""
        self._holds.pop(name).num_holds -= 1
        if self._in_flight is None:
            self._land()

    def cancel(self, key: str, now: float) -> None:
        """Ends a sequence, if there is one, without an event."""
        sequence = self._sequences.get(key)
        if sequence is not None:
            self._end(sequence)

    def finish_early(self, key: str, now: float) -> None:
        """The answer's text is complete (a stop string): its next token ends it with "stop"."""
        sequence = self._sequences.get(key)
        if sequence is not None:
            sequence.stopping = True

    def drain(self) -> list[EngineEvent]:
        """All events since the last call, in order; changes of the prefix cache come last."""
        evicted, stored = self.cache.take_changes()
        if evicted or stored:
            self._events.append(BlocksChanged(evicted, stored))
        events, self._events = self._events, []
        return events

    def starved(self) -> list[str]:
        """Keys of those who wait for pages while there are too few, as `plan` found last."""
        return [sequence.key for sequence in self._scheduler.starved]

    def find(self, key: str) -> Sequence | None:
        return self._sequences.get(key)

    def match_length(self, tokens: bytes, salt: bytes = b"") -> int:
        """Tokens of this prompt that are cached now. Pins nothing."""
        return self.cache.match_length(tokens, salt)

    @property
    def is_idle(self) -> bool:
        """No sequence is left, waiting or running."""
        return not self._sequences and not self._leaving

    def stats(self) -> WorkerStats:
        live = self._sequences.values()
        running = sum(1 for s in live if s.state is SequenceState.RUNNING)
        cache, page_size = self.cache, self.config.page_size
        return WorkerStats(
            running=running,
            waiting=len(self._sequences) - running,
            prefill_tokens=sum(s.backlog for s in live),
            kv_used_tokens=(cache.num_pages - cache.num_available) * page_size,
            kv_cached_tokens=cache.num_evictable * page_size,
            kv_total_tokens=self.config.capacity,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError unless every page is accounted for. For tests and idle moments."""
        live = list(self._sequences.values())
        for sequence in live:
            assert sequence.state is not SequenceState.FINISHED, f"{sequence.key} is a ghost"
            waits = sequence.state is SequenceState.WAITING
            assert not (waits and sequence.pages), f"{sequence.key} waits and holds pages"
        self.cache.check_integrity(chain(live, self._leaving))

    def _check_room(self) -> None:
        if len(self._sequences) >= self.config.max_sequences:
            most = self.config.max_sequences
            raise NoRoom(f"This worker has {most} plans under way.", retry_after_s=1.0)

    def _receive(self, key: str, ticket: str) -> tuple[Sequence | None, Receive | None]:
        sequence = self._sequences.get(key)
        receives = sequence.receives if sequence is not None else ()
        return sequence, next((r for r in receives if r.ticket == ticket), None)

    def _start(self, sequence: Sequence) -> None:
        if not sequence.started:
            sequence.started = True
            self._events.append(Reserved(sequence.key, sequence.num_matched))
            self._report_started(sequence, sequence.started_steps)
        self._settle(sequence)

    def _report_started(self, sequence: Sequence, steps: Iterable[str]) -> None:
        self._events.extend(StepStarted(sequence.key, step) for step in steps)

    def _computed(self, sequence: Sequence, end: int) -> None:
        if sequence.state is SequenceState.RUNNING:
            prompt_end = min(end, sequence.num_prompt)
            sequence.num_prefilled += max(0, prompt_end - sequence.num_computed)
            sequence.num_computed = end

    def _decoded(self, sequence: Sequence, steps: int) -> None:
        if sequence.state is SequenceState.RUNNING:
            sequence.num_computed += steps
            grown = steps == 1 or self.cache.grow(sequence, sequence.num_computed)
            assert grown, f"a batch was repeated beyond the pages of {sequence.key}"

    def _generate(self, sequence: Sequence, token: int, steps: int) -> None:
        if sequence.state is not SequenceState.RUNNING:
            return
        for _ in range(steps):
            sequence.tokens.append(token)
        finished = sequence.finish_reason(self.config.eos_token_ids, self.config.max_model_len)
        self._events.append(
            Generated(
                sequence.key,
                token,
                finished,
                prompt_tokens=sequence.num_prompt,
                completion_tokens=sequence.num_output,
                cached_tokens=sequence.cached_tokens,
                count=steps,
            )
        )
        if finished is not None:
            sequence.generated = True
            self._settle(sequence)

    def _settle(self, sequence: Sequence) -> None:
        """After any progress: frontier, cache, reports, and then the queue it belongs to now."""
        if sequence.state is SequenceState.FINISHED:
            return
        if sequence.state is SequenceState.RUNNING:
            sequence.advance()
            self.cache.publish(sequence, min(sequence.num_computed, len(sequence.tokens) - 1))
            for send in sequence.sends:
                if not send.computed and sequence.num_computed >= send.end:
                    self._report_computed(sequence, send)
        if sequence.is_complete:
            self._end(sequence)
            self._report_done(sequence)
        else:
            self._scheduler.place(sequence)

    def _report_computed(self, sequence: Sequence, send: Send) -> None:
        send.computed = True
        reused = sequence.num_reused(send.begin, send.end)
        computed = send.end - send.begin - reused
        self._events.append(StepComputed(sequence.key, send.step, computed, reused))

    def _report_done(self, sequence: Sequence) -> None:
        self._events.append(
            SequenceDone(
                sequence.key,
                matched=sequence.num_matched,
                received=sequence.num_received,
                computed=sequence.num_prefilled,
                generated=sequence.num_output,
            )
        )

    def _fail(self, sequence: Sequence, error: RequestError) -> None:
        self._end(sequence)
        self._events.append(SequenceFailed(sequence.key, error))

    def _end(self, sequence: Sequence) -> None:
        """Forgets a sequence; what it computed stays as cache. While a batch is in flight that may
        write its pages, or a transfer holds them, it keeps them."""
        del self._sequences[sequence.key]
        self._scheduler.remove(sequence)
        sequence.state = SequenceState.FINISHED
        self._leaving.append(sequence)
        if self._in_flight is None:
            self._land()

    def _land(self) -> None:
        """No batch is in flight any more: who has left and is not held gives back the pages."""
        self._in_flight = None
        for sequence in [s for s in self._leaving if not s.num_holds]:
            self.cache.publish(sequence, sequence.num_computed)
            self.cache.release(sequence)
            self._leaving.remove(sequence)


def _never_fits(sequence: Sequence, config: EngineConfig) -> TooLarge:
    return TooLarge(
        f"Prompt and answer have reached {len(sequence.tokens)} tokens; "
        f"the KV cache holds {config.capacity}."
    )
