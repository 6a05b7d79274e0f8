"""Whatever happens to sequences, in any order and also while a batch is in flight, no page is lost,
no sequence reads foreign KV, and every answer is that of an undisturbed run.

The fake runner checks each read; this machine only makes trouble.
"""

from array import array
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mserve.runtime.engine.batching import Batch
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.events import BlocksChanged, Generated, SequenceFailed
from mserve.runtime.engine.fake_runner import FakeWorker
from mserve.runtime.engine.lazy_runner import LazyRunner, LazyStep
from mserve.runtime.engine.sequence import Receive, Sequence, SequenceState
from mserve.runtime.errors import EngineFailure
from mserve.runtime.messages import (
    CommitCall,
    PrepRecvCall,
    RemoteSendCall,
    Sampling,
    StartGenerateCall,
    StepCall,
)

MAX_TOKENS = 12
CONFIG = EngineConfig(
    num_pages=14,
    page_size=2,
    max_batch_tokens=9,
    chunk_tokens=5,
    max_running=4,
    decode_headroom=2,
    max_model_len=26,
)

prompts = st.builds(
    lambda family, shared, own: [family] * shared + own,
    st.integers(0, 1),
    st.integers(0, 8),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
)


@dataclass
class Expected:
    tokens: list[int]
    max_tokens: int


class EngineMachine(RuleBasedStateMachine):
    page_size, num_pages, host_pages = 2, 14, 0

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(
            CONFIG,
            page_size=self.page_size,
            num_pages=self.num_pages,
            host_pages=self.host_pages,
        )
        self.worker = FakeWorker(self.config)
        self.engine = self.worker.engine
        self.batch: Batch | None = None
        self.running: LazyStep | None = None
        self.runner = LazyRunner(self.worker.runner)
        self.num_plans = 0
        self.expected: dict[str, Expected] = {}
        self.index: set[int] = set()

    # --- calls ---

    def submit(self, tokens: list[int], *steps: StepCall) -> str:
        self.num_plans += 1
        return self.worker.submit(f"p{self.num_plans}", tokens, *steps)

    @rule(tokens=prompts, max_tokens=st.integers(1, MAX_TOKENS))
    def generate(self, tokens: list[int], max_tokens: int) -> None:
        start = StartGenerateCall("g", 0, Sampling(max_tokens=max_tokens))
        self.expected[self.submit(tokens, start)] = Expected(tokens, max_tokens)

    @rule(tokens=prompts, max_tokens=st.integers(1, MAX_TOKENS), data=st.data())
    def receive_and_generate(self, tokens: list[int], max_tokens: int, data: st.DataObject) -> None:
        a, b, c, d = sorted(data.draw(st.integers(0, len(tokens))) for _ in range(4))
        receives = (PrepRecvCall("r", a, b, "t"), PrepRecvCall("q", c, d, "u"))
        start = StartGenerateCall("g", 0, Sampling(max_tokens=max_tokens))
        together = data.draw(st.booleans())
        key = self.submit(tokens, *receives, *([start] if together else []))
        if not together:
            self.worker.submit(key.removesuffix("/0"), tokens, start)
        self.expected[key] = Expected(tokens, max_tokens)

    @rule(tokens=prompts, data=st.data(), generates=st.booleans())
    def send(self, tokens: list[int], data: st.DataObject, generates: bool) -> None:
        begin, end = sorted(data.draw(st.integers(0, len(tokens))) for _ in range(2))
        steps: list[StepCall] = [RemoteSendCall("s", begin, end, ())]
        if generates:
            steps.append(StartGenerateCall("g", 0, Sampling(max_tokens=2)))
        key = self.submit(tokens, *steps)
        if generates:
            self.expected[key] = Expected(tokens, 2)

    @rule(tokens=prompts)
    def replicate(self, tokens: list[int]) -> None:
        self.submit(tokens, PrepRecvCall("r", 0, len(tokens), "t"), CommitCall("c", "t"))

    # --- transfers ---

    def live(self) -> list[Sequence]:
        found = (self.engine.find(f"p{i}/0") for i in range(1, self.num_plans + 1))
        return [sequence for sequence in found if sequence is not None]

    def receives(self, state: SequenceState) -> list[tuple[Sequence, Receive]]:
        return [
            (sequence, receive)
            for sequence in self.live()
            if sequence.state is state or state is SequenceState.FINISHED
            for receive in sequence.receives
            if not receive.arrived
        ]

    @precondition(lambda self: self.receives(SequenceState.FINISHED))
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        sequence, receive = data.draw(st.sampled_from(self.receives(SequenceState.FINISHED)))
        self.engine.opened(sequence.key, receive.ticket, 0.0)

    @precondition(lambda self: self.receives(SequenceState.RUNNING))
    @rule(data=st.data(), whole=st.booleans())
    def arrive(self, data: st.DataObject, whole: bool) -> None:
        sequence, receive = data.draw(st.sampled_from(self.receives(SequenceState.RUNNING)))
        self.fill(sequence, receive, receive.end if whole else receive.end - 1)
        if whole:
            self.engine.arrived(sequence.key, receive.ticket, 0.0)

    def fill(self, sequence: Sequence, receive: Receive, end: int) -> None:
        self.runner.catch_up()
        begin = max(receive.begin, sequence.num_matched)
        rows = array("i", [*sequence.tokens[begin:end], *range(begin, end)])
        for layer in range(self.worker.runner.num_layers):
            self.worker.runner.write(
                sequence.pages, layer, begin, max(begin, end), memoryview(rows.tobytes())
            )

    @precondition(lambda self: self.receives(SequenceState.FINISHED))
    @rule(data=st.data())
    def lose_a_sender(self, data: st.DataObject) -> None:
        sequence, receive = data.draw(st.sampled_from(self.receives(SequenceState.FINISHED)))
        self.engine.drop_receive(sequence.key, receive.ticket, 0.0)

    def sending(self) -> list[Sequence]:
        """A send that is done reads no more: its pages may be gone."""
        sends = [(s, s.sends[0]) for s in self.live() if s.sends]
        return [sequence for sequence, send in sends if send.computed and not send.done]

    @precondition(lambda self: self.sending())
    @rule(data=st.data())
    def finish_a_send(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sending()))
        self.runner.catch_up()
        copy = bytearray(8 * sequence.sends[0].end)
        self.worker.runner.read(sequence.pages, 0, 0, sequence.sends[0].end, memoryview(copy))
        sent = list(array("i", bytes(copy)))[: sequence.sends[0].end]
        assert sent == list(sequence.tokens[: sequence.sends[0].end])
        self.engine.send_done(sequence.key, "s", 0.0)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live()))
        self.engine.cancel(sequence.key, 0.0)
        self.expected.pop(sequence.key, None)

    # --- the loop, in halves so that everything above happens in flight too ---

    @precondition(lambda self: self.batch is None)
    @rule()
    def plan(self) -> None:
        self.batch = self.engine.plan(0.0)
        if self.batch is not None:
            self.worker.runner.move(self.batch.moves)
        self.drain()

    @precondition(lambda self: self.batch is not None)
    @rule()
    def commit(self) -> None:
        assert self.batch is not None
        self.engine.commit(self.batch, self.worker.runner.compute(self.batch), 0.0)
        self.batch = None
        self.drain()

    @precondition(lambda self: self.batch is not None)
    @rule(fails=st.booleans())
    def abandon(self, fails: bool) -> None:
        assert self.batch is not None
        culprits = [chunk.sequence.key for chunk in self.batch.prefill[:1]] if fails else []
        self.engine.abandon(self.batch, {key: EngineFailure("A fault.") for key in culprits})
        self.batch = None
        for key in culprits:
            self.expected.pop(key, None)
        self.drain()

    @rule(count=st.integers(1, 6))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.commit() if self.batch is not None else self.plan()

    def drain(self) -> None:
        for event in self.engine.drain():
            self.worker.events.append(event)
            if isinstance(event, BlocksChanged):
                self.index = self.index.difference(event.evicted).union(event.stored)
            if isinstance(event, SequenceFailed):
                assert isinstance(event.error, EngineFailure)

    # --- what holds ---

    @invariant()
    def pages_are_accounted_for(self) -> None:
        self.engine.check_integrity()

    def teardown(self) -> None:
        """All transfers come to their end, and then all answers."""
        while self.is_running():
            self.commit()
        for sequence, receive in self.receives(SequenceState.FINISHED):
            self.engine.opened(sequence.key, receive.ticket, 0.0)
        for _ in range(10_000):
            if self.batch is None:
                self.plan()
            if self.is_running():
                self.commit()
            elif not self.finish_transfers():
                break
        assert self.engine.is_idle
        self.engine.check_integrity()
        assert self.index == set(self.engine.cache.snapshot())
        for key, expected in self.expected.items():
            self.check_answer(key, expected)

    def is_running(self) -> bool:
        return self.batch is not None

    def finish_transfers(self) -> bool:
        """True if anything moved."""
        receives = self.receives(SequenceState.RUNNING)
        for sequence, receive in receives:
            self.fill(sequence, receive, receive.end)
            self.engine.arrived(sequence.key, receive.ticket, 0.0)
        sending = self.sending()
        for sequence in sending:
            self.engine.send_done(sequence.key, "s", 0.0)
        return bool(receives or sending)

    def check_answer(self, key: str, expected: Expected) -> None:
        length = min(expected.max_tokens, self.config.max_model_len - len(expected.tokens))
        assert self.worker.answer(key) == self.worker.expected_answer(expected.tokens, length)
        events = [e for e in self.worker.events if isinstance(e, Generated) and e.key == key]
        assert [e.finished for e in events] == [None] * (length - 1) + ["length"]


class OverlappedMachine(EngineMachine):
    """A step is launched before the one before it is committed, and done as late as it may."""

    host_pages = 6

    @precondition(lambda self: self.batch is None)
    @rule()
    def plan(self) -> None:
        self.batch = self.engine.plan(0.0)
        if self.batch is not None:
            self.running = self.runner.launch(self.batch, None)
        self.drain()

    @precondition(lambda self: self.batch is not None)
    @rule()
    def commit(self) -> None:
        batch, running = self.batch, self.running
        assert batch is not None
        assert running is not None
        self.batch = self.engine.plan(0.0)
        self.running = None if self.batch is None else self.runner.launch(self.batch, running)
        self.engine.commit(batch, running.result(), 0.0)
        self.drain()


class HostTierMachine(EngineMachine):
    host_pages = 6


class LargePagesMachine(EngineMachine):
    page_size, num_pages, host_pages = 4, 8, 3


class SinglePositionMachine(EngineMachine):
    page_size, num_pages, host_pages = 1, 27, 9


class LargestPagesMachine(EngineMachine):
    page_size, num_pages, host_pages = 16, 4, 2


SETTINGS = settings(max_examples=30, stateful_step_count=50, deadline=None)
TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = SETTINGS
TestOverlappedMachine = OverlappedMachine.TestCase
TestOverlappedMachine.settings = SETTINGS
TestHostTierMachine = HostTierMachine.TestCase
TestHostTierMachine.settings = SETTINGS
TestLargePagesMachine = LargePagesMachine.TestCase
TestLargePagesMachine.settings = SETTINGS
TestSinglePositionMachine = SinglePositionMachine.TestCase
TestSinglePositionMachine.settings = SETTINGS
TestLargestPagesMachine = LargestPagesMachine.TestCase
TestLargestPagesMachine.settings = SETTINGS
