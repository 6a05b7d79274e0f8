"""The engine: plan calls go in, batches come out, what was computed goes back in, events come out.

    while there is work:                 # the driver: a process with a model, or a simulator
        batch = engine.plan(now)
        output = runner.run(batch)
        engine.commit(batch, output, now)
        for event in engine.drain(): ...

Owns the sequences. No clock, no await, no torch: `now` is an argument, in seconds. Knows neither
who asks nor how KV moves; the driver says when a sender has `opened` and when KV has `arrived`.

An overlapped driver plans one batch more before it commits the last, on what foresight.py knows:

    following = engine.plan(now)         # None: it depends on what is not known yet
    launch(following); engine.commit(batch, result_of(batch), now)
"""

from array import array
from itertools import chain

from mserve.runtime.cluster.membership import WorkerStats
from mserve.runtime.engine import intake
from mserve.runtime.engine.aligned_scheduler import AlignedScheduler
from mserve.runtime.engine.batching import Batch, Draw, StepOutput
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.events import EngineEvent
from mserve.runtime.engine.foresight import Foresight
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.leaving import Leaving
from mserve.runtime.engine.prefix_match import Match
from mserve.runtime.engine.reports import Reports
from mserve.runtime.engine.scheduler import Scheduler
from mserve.runtime.engine.sequence import Receive, Sequence, SequenceState
from mserve.runtime.errors import NoRoom, RequestError, TooLarge
from mserve.runtime.messages import PlanCall


class Engine:
    """One worker's sequences, from a call to the last event. Not thread safe."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.cache = KvCache(
            config.num_pages,
            config.page_size,
            config.host_pages,
            keeps_blocks=config.prefix_cache,
        )
        kind = AlignedScheduler if config.batch == "aligned" else Scheduler
        self._scheduler = kind(config, self.cache)
        self._sequences: dict[str, Sequence] = {}
        self._num_submitted = 0
        self._in_flight: list[Batch] = []  # planned and not committed, at most two
        self._num_planned = 0
        self._foresight = Foresight(self._scheduler)  # of the first in flight, if it has a second
        self._leaving = Leaving(self.cache)
        self._reports = Reports()

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
        else:
            intake.check_same(sequence, call)
        steps_before = sequence.started_steps
        intake.extend(sequence, call, self.config)
        if call.key not in self._sequences:
            self._sequences[call.key] = sequence
            self._num_submitted += 1
        if sequence.started:
            new_steps = [s for s in sequence.started_steps if s not in steps_before]
            self._reports.started(sequence, new_steps)
        self._settle(sequence)
        return sequence

    def plan(self, now: float) -> Batch | None:
        """The next step's batch, or None while there is nothing to do. Pages are given out here, so
        events may follow without a batch; what a batch moves is taken for done: nobody may touch a
        page before its runner has done it.

        At most one batch may be uncommitted. Then None may also mean that it has to be committed
        first; else its rows of sequences that turn out to have ended are computed in vain."""
        if self._in_flight and not self._foresight.foresee(self._in_flight[-1]):
            return None
        self._scheduler.choose(now, is_ahead=bool(self._in_flight))
        for sequence in self._scheduler.make_room():
            self._fail(sequence, _never_fits(sequence, self.config))
        for sequence in self._scheduler.admit():
            self._start(sequence)
        batch = self._scheduler.form()
        if batch is None:
            self._foresight.take_back()
            return None
        self._in_flight.append(batch)
        self._num_planned += 1
        return batch

    def commit(self, batch: Batch, output: StepOutput, now: float) -> None:
        """Takes what a batch computed; its tokens stand in the order of `batch.sampled`. One planned
        meanwhile has been launched, or will be before anything else is asked of the engine."""
        assert self._is_first(batch), "a batch is committed that is not the one in flight"
        self._land()
        for chunk in batch.prefill:
            self._computed(chunk.sequence, chunk.end)
        for sequence in batch.decode:
            self._decoded(sequence, output.steps)
        if output.steps > 1:
            self.cache.take_moves()  # of pages taken on the way: the run of steps has done them
        sampled = batch.sampled
        for sequence, draw in zip(sampled, output.draws(len(sampled)), strict=True):
            self._generate(sequence, draw, output.steps)
        for chunk in batch.prefill:
            self._settle(chunk.sequence)

    def abandon(self, batch: Batch, errors: dict[str, RequestError]) -> None:
        """Takes back a batch that a runner could not execute, except for its moves, and one planned
        on it. The sequences in `errors` fail; for the others it is as if it had never been
        planned."""
        assert self._is_first(batch), "a batch is abandoned that is not the one in flight"
        while self._in_flight:
            self._land()
        for sequence in (*(chunk.sequence for chunk in batch.prefill), *batch.decode):
            self._settle(sequence)
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
        self._leaving.hold(self._sequences[key], name)

    def let_go(self, name: str) -> None:
        """The transfer is over."""
        self._leaving.let_go(name)
        self._free()

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
        return self._reports.drain(self.cache)

    def starved(self) -> list[str]:
        """Keys of those who wait for pages while there are too few, as `plan` found last."""
        return [sequence.key for sequence in self._scheduler.starved]

    def find(self, key: str) -> Sequence | None:
        return self._sequences.get(key)

    def found_length(self, key: str) -> int:
        """Tokens of this sequence's prompt that are cached now, or its own already; 0 if it is
        over."""
        sequence = self._sequences.get(key)
        if sequence is None:
            return 0
        return sequence.num_matched if sequence.pages else self.cache.found(sequence).num_tokens

    def match_length(self, tokens: bytes, salt: bytes = b"") -> int:
        """Tokens of this prompt (int32 little endian) that are cached now. Pins nothing."""
        return self.match(tokens, salt).num_tokens

    def match(self, tokens: bytes, salt: bytes = b"") -> Match:
        """The same, by tier."""
        return self.cache.match(tokens, salt)

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
            prefill_tokens=sum(s.backlog for s in live if not self._scheduler.is_parked(s)),
            kv_used_tokens=(cache.num_pages - cache.num_available) * page_size,
            kv_cached_tokens=cache.num_evictable * page_size,
            kv_total_tokens=self.config.capacity,
            host_cached_tokens=cache.num_host_used * page_size,
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
            self._reports.reserved(sequence)
            self._reports.started(sequence, sequence.started_steps)
        self._settle(sequence)

    def _computed(self, sequence: Sequence, end: int) -> None:
        if sequence.state is SequenceState.RUNNING:
            prompt_end = min(end, sequence.num_prompt)
            sequence.num_prefilled += max(0, prompt_end - sequence.num_computed)
            sequence.num_computed = end

    def _decoded(self, sequence: Sequence, steps: int) -> None:
        if sequence.awaits_tokens:
            sequence.num_computed += steps
            grown = steps == 1 or self.cache.grow(sequence, sequence.num_computed)
            assert grown, f"a batch was repeated beyond the pages of {sequence.key}"

    def _generate(self, sequence: Sequence, draw: Draw, steps: int) -> None:
        if not sequence.awaits_tokens:
            return
        sequence.tokens.extend(array("i", (draw.token,)) * steps)
        finished = sequence.finish_reason(self.config.eos_token_ids, self.config.max_model_len)
        self._reports.generated(sequence, draw, finished, steps)
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
                    send.computed = True
                    self._reports.computed(sequence, send)
        if sequence.is_complete:
            self._end(sequence)
            self._reports.done(sequence)
        else:
            self._scheduler.place(sequence)

    def _fail(self, sequence: Sequence, error: RequestError) -> None:
        self._end(sequence)
        self._reports.failed(sequence, error)

    def _end(self, sequence: Sequence) -> None:
        """Forgets a sequence; what it computed stays as cache. While a batch is in flight that may
        write its pages, or a transfer holds them, it keeps them."""
        del self._sequences[sequence.key]
        self._scheduler.remove(sequence)
        sequence.state = SequenceState.FINISHED
        self._leaving.add(sequence, self._num_planned)
        self._free()

    def _is_first(self, batch: Batch) -> bool:
        return bool(self._in_flight) and batch is self._in_flight[0]

    def _land(self) -> None:
        """The first batch in flight is over."""
        self._foresight.take_back()
        self._in_flight.pop(0)
        self.cache.settle_moves()
        self._free()

    def _free(self) -> None:
        self._leaving.free(self._num_planned - len(self._in_flight))


def _never_fits(sequence: Sequence, config: EngineConfig) -> TooLarge:
    return TooLarge(
        f"Prompt and answer have reached {len(sequence.tokens)} tokens; "
        f"the KV cache holds {config.capacity}."
    )
