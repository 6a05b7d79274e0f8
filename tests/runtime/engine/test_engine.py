"""The engine as its drivers see it: calls, transfers, events, and answers that never depend on the
path that a sequence took."""

from array import array
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from mserve.runtime.engine.batching import StepOutput
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
from mserve.runtime.engine.fake_runner import FakeWorker
from mserve.runtime.errors import EngineFailure
from mserve.runtime.messages import (
    CommitCall,
    PrepRecvCall,
    ReleaseCall,
    RemoteSendCall,
    Sampling,
    StartGenerateCall,
)

T = TypeVar("T", bound=EngineEvent)

PROMPT = [(7 * index) % 256 for index in range(30)]


def worker_of(**limits: Any) -> FakeWorker:
    config = EngineConfig(num_pages=40, page_size=4, chunk_tokens=8, max_model_len=128)
    return FakeWorker(replace(config, **limits))


def start(begin: int = 0, max_tokens: int = 4) -> StartGenerateCall:
    return StartGenerateCall("generate", begin, Sampling(max_tokens=max_tokens))


def fill(worker: FakeWorker, key: str, begin: int, end: int) -> None:
    """What a sender of [begin, end) would write."""
    sequence = worker.engine.find(key)
    assert sequence is not None
    begin = max(begin, sequence.num_matched)
    rows = array("i", [*sequence.tokens[begin:end], *range(begin, end)])
    for layer in range(worker.runner.num_layers):
        worker.runner.write(sequence.pages, layer, begin, end, memoryview(rows.tobytes()))


def receive(worker: FakeWorker, key: str, ticket: str, begin: int, end: int) -> None:
    worker.engine.opened(key, ticket, 0.0)
    worker.run()
    fill(worker, key, begin, end)
    worker.engine.arrived(key, ticket, 0.0)
    worker.run()


def of_kind(worker: FakeWorker, kind: type[T]) -> list[T]:
    return [event for event in worker.events if isinstance(event, kind)]


# --- one sequence ------------------------------------------------------------------------------


def test_a_request_is_a_start_generate_alone() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, start())
    worker.run()
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    kinds = [type(e) for e in worker.events if not isinstance(e, BlocksChanged)]
    assert kinds == [Reserved, StepStarted, *[Generated] * 4, SequenceDone]
    last = of_kind(worker, Generated)[-1]
    assert last == Generated(key, worker.answer(key)[-1], "length", 30, 4, 0)
    worker.finish()


def test_a_second_request_reuses_prompt_and_answer_of_the_first() -> None:
    worker = worker_of()
    first = worker.submit("a", PROMPT, start(max_tokens=8))
    worker.run()
    longer = PROMPT + worker.answer(first) + [1, 2, 3]
    second = worker.submit("b", longer, start())
    worker.run()
    assert worker.answer(second) == worker.expected_answer(longer, 4)
    assert of_kind(worker, Generated)[-1].cached_tokens == 36  # KV of 37, whole blocks of it
    assert of_kind(worker, SequenceDone)[-1] == SequenceDone(second, 36, 0, 5, 4)
    worker.finish()


def test_a_salt_keeps_prompts_apart() -> None:
    worker = worker_of()
    for plan, salt in (("a", b"x"), ("b", b"y")):
        worker.submit(plan, PROMPT, start(), salt=salt)
        worker.run()
    assert of_kind(worker, SequenceDone)[-1].matched == 0


def test_eos_and_stop_tokens_end_an_answer_after_min_tokens() -> None:
    tokens = worker_of().expected_answer(PROMPT, 6)

    def length(sampling: Sampling, *eos: int) -> tuple[int, str | None]:
        worker = worker_of(eos_token_ids=frozenset(eos))
        key = worker.submit("a", PROMPT, StartGenerateCall("g", 0, sampling))
        worker.run()
        worker.finish()
        return len(worker.answer(key)), of_kind(worker, Generated)[-1].finished

    assert len(set(tokens)) == 6
    assert length(Sampling(max_tokens=6), tokens[2]) == (3, "stop")
    assert length(Sampling(max_tokens=6, ignore_eos=True), tokens[2]) == (6, "length")
    assert length(Sampling(max_tokens=6, stop_token_ids=(tokens[1],))) == (2, "stop")
    assert length(Sampling(max_tokens=6, min_tokens=3), tokens[2], tokens[4]) == (5, "stop")
    assert length(Sampling(max_tokens=3), tokens[2]) == (3, "stop")


def test_an_answer_ends_at_the_models_length() -> None:
    worker = worker_of(max_model_len=33)
    key = worker.submit("a", PROMPT, start(max_tokens=50))
    worker.run()
    assert len(worker.answer(key)) == 3
    assert of_kind(worker, Generated)[-1].finished == "length"


def test_an_answer_whose_text_is_complete_ends_with_its_next_token() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, start(max_tokens=50))
    while len(worker.answer(key)) < 2:
        worker.step()
    worker.engine.finish_early(key, 0.0)
    worker.finish()
    assert len(worker.answer(key)) == 3
    assert of_kind(worker, Generated)[-1].finished == "stop"


# --- receiving ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 13, 29, 30])
def test_received_and_computed_kv_mix_at_any_position(cut: int) -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, PrepRecvCall("r", 0, cut, "t"), start(min(cut, 29)))
    receive(worker, key, "t", 0, cut)
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    received = min(cut, 29)  # the last token always runs
    assert of_kind(worker, SequenceDone) == [SequenceDone(key, 0, received, 30 - received, 4)]
    assert of_kind(worker, Generated)[-1].cached_tokens == received
    worker.finish()


def test_two_senders_and_a_gap_between_them() -> None:
    worker = worker_of()
    ranges = [PrepRecvCall("r", 2, 11, "t"), PrepRecvCall("q", 17, 25, "u")]
    key = worker.submit("a", PROMPT, *ranges, start())
    worker.engine.opened(key, "u", 0.0)
    worker.run()
    fill(worker, key, 17, 25)
    worker.engine.arrived(key, "u", 0.0)
    worker.run()
    assert worker.engine.find(key).num_computed == 2  # type: ignore[union-attr]
    receive(worker, key, "t", 2, 11)
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    assert of_kind(worker, SequenceDone)[0].received == 17
    worker.finish()


def test_what_is_cached_need_not_be_received() -> None:
    worker = worker_of()
    worker.submit("a", PROMPT[:18], start())
    worker.run()
    key = worker.submit("b", PROMPT, PrepRecvCall("r", 0, 25, "t"), start(25))
    worker.engine.opened(key, "t", 0.0)
    worker.run()
    assert of_kind(worker, Reserved)[-1] == Reserved(key, 18)
    receive(worker, key, "t", 0, 25)
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    assert of_kind(worker, SequenceDone)[-1] == SequenceDone(key, 18, 7, 5, 4)
    worker.finish()


def test_kv_is_invisible_until_all_of_it_has_arrived() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, PrepRecvCall("r", 0, 25, "t"), start(25))
    worker.engine.opened(key, "t", 0.0)
    worker.run()
    fill(worker, key, 0, 24)
    twin = worker.submit("b", PROMPT, start())
    worker.run()
    assert of_kind(worker, SequenceDone)[-1] == SequenceDone(twin, 0, 0, 30, 4)
    worker.engine.cancel(key, 0.0)
    worker.finish()


def test_prep_recv_and_start_generate_may_come_as_separate_calls() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, PrepRecvCall("r", 0, 30, "t"))
    receive(worker, key, "t", 0, 30)
    assert not of_kind(worker, SequenceDone)
    worker.submit("a", PROMPT, start(29))
    worker.run()
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    assert of_kind(worker, SequenceDone) == [SequenceDone(key, 0, 30, 1, 4)]
    worker.finish()


def test_a_dropped_ticket_is_computed_instead() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, PrepRecvCall("r", 0, 25, "t"), start(25))
    worker.engine.opened(key, "t", 0.0)
    worker.run()
    fill(worker, key, 0, 13)
    worker.engine.drop_receive(key, "t", 0.0)
    worker.run()
    assert worker.answer(key) == worker.expected_answer(PROMPT, 4)
    assert of_kind(worker, SequenceDone) == [SequenceDone(key, 0, 0, 30, 4)]
    worker.finish()


def test_a_commit_keeps_what_arrived_as_cache() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, PrepRecvCall("r", 0, 30, "t"), CommitCall("c", "t"))
    receive(worker, key, "t", 0, 30)
    assert of_kind(worker, SequenceDone) == [SequenceDone(key, 0, 30, 0, 0)]
    other = worker.submit("b", PROMPT, start())
    worker.run()
    assert of_kind(worker, SequenceDone)[-1].matched == 28
    assert worker.answer(other) == worker.expected_answer(PROMPT, 4)
    worker.finish()


def test_a_release_gives_everything_back() -> None:
    worker = worker_of()
    waiting = worker.submit("a", PROMPT, PrepRecvCall("r", 0, 30, "t"))
    running = worker.submit("b", PROMPT, PrepRecvCall("r", 0, 30, "u"))
    worker.engine.opened(running, "u", 0.0)
    worker.run()
    for plan, ticket in (("a", "t"), ("b", "u")):
        worker.submit(plan, PROMPT, ReleaseCall("x", ticket))
    worker.run()
    assert [done.key for done in of_kind(worker, SequenceDone)] == [waiting, running]
    worker.finish()


def test_what_is_over_is_not_an_error() -> None:
    worker = worker_of()
    worker.engine.opened("gone/0", "t", 0.0)
    worker.engine.arrived("gone/0", "t", 0.0)
    worker.engine.drop_receive("gone/0", "t", 0.0)
    worker.engine.send_done("gone/0", "s", 0.0)
    worker.engine.cancel("gone/0", 0.0)
    worker.engine.finish_early("gone/0", 0.0)
    worker.finish()


# --- sending -----------------------------------------------------------------------------------


def test_a_sender_reports_what_it_computed_and_keeps_it_until_all_have_it() -> None:
    worker = worker_of()
    worker.submit("a", PROMPT[:10], start())
    worker.run()
    key = worker.submit("b", PROMPT, RemoteSendCall("s", 0, 21, ()))
    worker.run()
    assert of_kind(worker, StepStarted)[-1] == StepStarted(key, "s", matched=10)
    assert of_kind(worker, StepComputed) == [StepComputed(key, "s", 11, 10)]
    assert worker.engine.stats().kv_used_tokens == 24
    worker.engine.send_done(key, "s", 0.0)
    worker.finish()
    assert of_kind(worker, SequenceDone)[-1] == SequenceDone(key, 10, 0, 11, 0)


def test_a_pipeline_computes_on_from_what_it_received() -> None:
    worker = worker_of()
    key = worker.submit(
        "a", PROMPT, PrepRecvCall("r", 0, 9, "t"), RemoteSendCall("s", 9, 22, (), ("t",))
    )
    receive(worker, key, "t", 0, 9)
    assert of_kind(worker, StepComputed) == [StepComputed(key, "s", 13, 0)]
    worker.engine.send_done(key, "s", 0.0)
    worker.finish()


def test_pages_of_a_finished_answer_stay_until_its_sends_are_done() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, RemoteSendCall("s", 0, 30, ()), start())
    worker.run()
    assert len(worker.answer(key)) == 4
    assert not of_kind(worker, SequenceDone)
    copy = bytearray(30 * worker.runner.bytes_per_token_layer)
    worker.runner.read(worker.engine.find(key).pages, 1, 0, 30, memoryview(copy))  # type: ignore[union-attr]
    assert list(array("i", bytes(copy))[:30]) == PROMPT
    worker.engine.send_done(key, "s", 0.0)
    worker.finish()


def test_a_send_may_be_added_while_its_sequence_runs() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, start(max_tokens=6))
    worker.step()
    worker.submit("a", PROMPT, RemoteSendCall("s", 0, 30, ()))
    worker.run()
    assert of_kind(worker, StepComputed) == [StepComputed(key, "s", 30, 0)]
    worker.engine.send_done(key, "s", 0.0)
    worker.finish()


# --- ends --------------------------------------------------------------------------------------


def test_a_cancel_in_flight_frees_pages_at_the_commit_and_not_before() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, start())
    worker.step()
    batch = worker.engine.plan(0.0)
    assert batch is not None
    worker.engine.cancel(key, 0.0)
    worker.engine.cancel(key, 0.0)
    assert worker.engine.stats().kv_used_tokens > 0
    worker.engine.check_integrity()
    worker.engine.commit(batch, worker.runner.run(batch), 0.0)
    worker.events += worker.engine.drain()
    assert not of_kind(worker, Generated)
    assert not of_kind(worker, SequenceDone)
    worker.finish()
    assert worker.engine.match_length(array("i", PROMPT).tobytes()) == 8  # the first chunk


def test_pages_of_a_cancelled_sequence_stay_while_a_transfer_holds_them() -> None:
    worker = worker_of()
    key = worker.submit("a", PROMPT, PrepRecvCall("r", 0, 30, "t"))
    worker.engine.opened(key, "t", 0.0)
    worker.run()
    worker.engine.hold(key, "t")
    with pytest.raises(AssertionError, match="twice"):
        worker.engine.hold(key, "t")
    worker.engine.cancel(key, 0.0)
    assert worker.engine.stats().kv_used_tokens > 0
    assert not worker.engine.is_idle
    worker.engine.check_integrity()
    worker.engine.let_go("t")
    worker.finish()


def test_a_runner_that_fails_takes_only_the_culprit_along() -> None:
    worker = worker_of()
    good, bad = (
        worker.submit(plan, [*PROMPT, seed], start()) for plan, seed in (("a", 1), ("b", 2))
    )
    worker.step()
    batch = worker.engine.plan(0.0)
    assert batch is not None
    worker.engine.abandon(batch, {bad: EngineFailure("The model could not do it.")})
    worker.run()
    assert [failure.key for failure in of_kind(worker, SequenceFailed)] == [bad]
    assert worker.answer(good) == worker.expected_answer([*PROMPT, 1], 4)
    worker.finish()


def test_the_protocol_of_plan_and_commit_is_asserted() -> None:
    worker = worker_of()
    worker.submit("a", PROMPT, start())
    batch = worker.engine.plan(0.0)
    assert batch is not None
    assert worker.engine.plan(0.0) is not None, "one batch may be uncommitted"
    with pytest.raises(AssertionError, match="not committed"):
        worker.engine.plan(0.0)
    worker.engine.commit(batch, worker.runner.run(batch), 0.0)
    with pytest.raises(AssertionError, match="not the one in flight"):
        worker.engine.commit(batch, StepOutput(), 0.0)


def test_stats_tell_the_load() -> None:
    worker = worker_of(max_running=1)
    worker.submit("a", PROMPT, start())
    worker.submit("b", PROMPT[:20], start())
    assert worker.engine.stats().prefill_tokens == 50
    worker.step()
    stats = worker.engine.stats()
    assert (stats.running, stats.waiting, stats.prefill_tokens) == (1, 1, 42)
    assert (stats.kv_used_tokens, stats.kv_total_tokens) == (36, 160)
    worker.run()
    stats = worker.engine.stats()
    assert (stats.running, stats.waiting, stats.prefill_tokens) == (0, 0, 0)
    assert stats.kv_cached_tokens == 32
    worker.finish()
