"""What is in a batch, who is admitted when, and who gives way when memory runs out."""

from dataclasses import replace
from typing import Any

import pytest

from mserve.runtime.engine.batching import Batch
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.events import (
    Generated,
    Reserved,
    SequenceDone,
    SequenceFailed,
    StepStarted,
)
from mserve.runtime.engine.fake_runner import FakeWorker
from mserve.runtime.engine.sequence import SequenceState
from mserve.runtime.errors import ConfigError, TooLarge
from mserve.runtime.messages import PrepRecvCall, RemoteSendCall, Sampling, StartGenerateCall


def worker_of(**limits: Any) -> FakeWorker:
    config = EngineConfig(num_pages=64, page_size=4, decode_headroom=4)
    return FakeWorker(replace(config, **limits))


def prompt(seed: int, length: int) -> list[int]:
    return [(seed * 31 + index * 7) % 256 for index in range(length)]


def shape(batch: Batch | None) -> tuple[list[tuple[str, int, int, bool]], list[str]]:
    """Chunks and decodes of a batch, by key."""
    assert batch is not None
    chunks = [(c.sequence.key, c.begin, c.end, c.sample) for c in batch.prefill]
    return chunks, [sequence.key for sequence in batch.decode]


def state_of(worker: FakeWorker, key: str) -> SequenceState:
    sequence = worker.engine.find(key)
    return SequenceState.FINISHED if sequence is None else sequence.state


def pages_of(worker: FakeWorker, key: str) -> list[int]:
    sequence = worker.engine.find(key)
    return [] if sequence is None else list(sequence.pages)


def test_a_prompt_is_computed_in_chunks_and_its_last_one_samples() -> None:
    worker = worker_of(chunk_tokens=8)
    key = worker.generate("a", prompt(1, 20), max_tokens=3)
    worker.finish()
    assert [shape(batch) for batch in worker.batches] == [
        ([(key, 0, 8, False)], []),
        ([(key, 8, 16, False)], []),
        ([(key, 16, 20, True)], []),
        ([], [key]),
        ([], [key]),
    ]
    assert worker.answer(key) == worker.expected_answer(prompt(1, 20), 3)


def test_decodes_come_first_and_chunks_fill_the_budget() -> None:
    worker = worker_of(chunk_tokens=8, max_batch_tokens=10)
    first = worker.generate("a", prompt(1, 6), max_tokens=6)
    worker.step()
    second, third = (worker.generate(name, prompt(seed, 16)) for name, seed in (("b", 2), ("c", 3)))
    assert shape(worker.step()) == ([(second, 0, 8, False), (third, 0, 1, False)], [first])
    assert shape(worker.step()) == ([(second, 8, 16, True), (third, 1, 2, False)], [first])
    assert shape(worker.step()) == ([(third, 2, 10, False)], [first, second])
    worker.finish()
    for batch in worker.batches:
        tokens = len(batch.decode) + sum(chunk.end - chunk.begin for chunk in batch.prefill)
        assert tokens <= 10


def test_a_long_prompt_never_holds_up_running_answers_for_more_than_one_chunk() -> None:
    worker = worker_of(num_pages=200, chunk_tokens=8, max_batch_tokens=64)
    running = [worker.generate(f"p{i}", prompt(i, 6), max_tokens=60) for i in range(4)]
    worker.step()
    worker.generate("long", prompt(9, 300), max_tokens=2)
    worker.step()
    while worker.batches[-1].prefill:
        batch = worker.batches[-1]
        assert [sequence.key for sequence in batch.decode] == running
        assert sum(chunk.end - chunk.begin for chunk in batch.prefill) <= 8
        worker.step()
    assert len(worker.batches) > 300 // 8
    worker.finish()


def test_no_more_sequences_run_than_allowed() -> None:
    worker = worker_of(max_running=3)
    keys = [worker.generate(f"p{i}", prompt(i, 8)) for i in range(8)]
    worker.finish()
    assert max(len(b.prefill) + len(b.decode) for b in worker.batches) == 3
    assert all(len(worker.answer(key)) == 4 for key in keys)


def test_nobody_overtakes_the_oldest_that_waits_for_memory() -> None:
    worker = worker_of(num_pages=8)
    worker.generate("a", prompt(1, 16), max_tokens=8)
    worker.step()
    big, small = worker.generate("b", prompt(2, 20)), worker.generate("c", prompt(3, 4))
    worker.finish()
    first_of = {
        e.key: i for i, e in reversed(list(enumerate(worker.events))) if isinstance(e, Generated)
    }
    assert first_of[big] < first_of[small]


def test_a_sequence_that_waits_for_kv_blocks_nobody() -> None:
    worker = worker_of(max_running=1)
    tokens = prompt(1, 12)
    start = StartGenerateCall("g", 8, Sampling(max_tokens=2), uses=("t",))
    waiting = worker.submit("a", tokens, PrepRecvCall("r", 0, 8, "t"), start)
    worker.step()
    assert state_of(worker, waiting) is SequenceState.WAITING  # its sender is not there: no pages
    worker.engine.opened(waiting, "t", 0.0)
    other = worker.generate("b", prompt(2, 8))
    worker.run()
    assert state_of(worker, waiting) is SequenceState.RUNNING
    assert len(worker.answer(other)) == 4
    worker.engine.cancel(waiting, 0.0)
    worker.finish()


def test_a_receiver_gets_pages_while_the_token_budget_is_spent() -> None:
    worker = worker_of(max_batch_tokens=8, chunk_tokens=8)
    for index in range(3):
        worker.generate(f"p{index}", prompt(index, 24))
    receiver = worker.submit("r", prompt(9, 12), PrepRecvCall("r", 0, 8, "t"))
    worker.engine.opened(receiver, "t", 0.0)
    worker.step()
    assert state_of(worker, receiver) is SequenceState.RUNNING
    worker.engine.cancel(receiver, 0.0)
    worker.finish()


def test_the_youngest_is_preempted_and_its_answer_stays_the_same() -> None:
    worker = worker_of(num_pages=12)
    prompts = [prompt(seed, 10) for seed in range(3)]
    keys = [worker.generate(f"p{i}", tokens, 16) for i, tokens in enumerate(prompts)]
    preempted = set()
    while worker.step() is not None:
        worker.engine.check_integrity()
        for key in keys:
            sequence = worker.engine.find(key)
            if sequence and sequence.started and sequence.state is SequenceState.WAITING:
                preempted.add(key)
    assert preempted == set(keys[1:])
    for key, tokens in zip(keys, prompts, strict=True):
        assert worker.answer(key) == worker.expected_answer(tokens, 16)
    worker.finish()


def test_a_preempted_sequence_comes_back_from_host_memory_instead_of_being_computed_again() -> None:
    def computed_twice(host_pages: int) -> int:
        worker = worker_of(num_pages=12, host_pages=host_pages)
        prompts = [prompt(seed, 10) for seed in range(3)]
        keys = [worker.generate(f"p{i}", tokens, 16) for i, tokens in enumerate(prompts)]
        worker.finish()
        for key, tokens in zip(keys, prompts, strict=True):
            assert worker.answer(key) == worker.expected_answer(tokens, 16)
        chunks = [chunk for batch in worker.batches for chunk in batch.prefill]
        total = sum(chunk.end - chunk.begin for chunk in chunks)
        return total - sum(len(tokens) for tokens in prompts)

    num_preemptions = 3
    assert computed_twice(host_pages=0) > 20
    assert computed_twice(host_pages=4) < computed_twice(host_pages=0)
    assert computed_twice(host_pages=24) <= num_preemptions * 4  # less than a page each


def test_a_batch_may_be_there_for_its_moves_alone() -> None:
    """A receiver's page was another block's, which goes to host memory first."""
    worker = worker_of(num_pages=4, host_pages=4)
    worker.generate("a", prompt(1, 12), 1)
    worker.run()
    receiver = worker.submit("b", prompt(2, 16), PrepRecvCall("r", 0, 16, "t"))
    worker.engine.opened(receiver, "t", 0.0)
    batch = worker.step()
    assert batch is not None
    assert not batch.computes
    assert len(batch.moves.saves) == 3
    worker.engine.cancel(receiver, 0.0)
    key = worker.generate("c", prompt(1, 12), 2)
    worker.finish()
    assert worker.answer(key) == worker.expected_answer(prompt(1, 12), 2)
    assert sum(len(batch.moves.restores) for batch in worker.batches) == 3


def test_memory_pressure_starves_nobody() -> None:
    worker = worker_of(num_pages=12, max_batch_tokens=16, chunk_tokens=8)
    prompts = [prompt(seed, 5 + seed % 20) for seed in range(30)]
    keys = [worker.generate(f"p{i}", tokens, 12) for i, tokens in enumerate(prompts)]
    worker.finish()
    for key, tokens in zip(keys, prompts, strict=True):
        assert worker.answer(key) == worker.expected_answer(tokens, 12)


def test_a_preempted_sequence_reports_its_start_once() -> None:
    worker = worker_of(num_pages=12)
    for index in range(3):
        worker.generate(f"p{index}", prompt(index, 10), 16)
    worker.finish()
    once = [
        (type(event), event.key)
        for event in worker.events
        if isinstance(event, Reserved | StepStarted | SequenceDone)
    ]
    assert len(once) == len(set(once)) == 9


def test_pages_under_a_transfer_are_never_taken() -> None:
    worker = worker_of(num_pages=8)
    sender = worker.submit("s", prompt(1, 16), RemoteSendCall("s", 0, 16, ()))
    worker.run()
    pages = pages_of(worker, sender)
    key = worker.generate("a", prompt(2, 12), 40)
    worker.run()
    assert pages_of(worker, sender) == pages
    assert 0 < len(worker.answer(key)) < 20  # it waits, without pages
    assert worker.engine.stats().waiting == 1
    worker.engine.send_done(sender, "s", 0.0)
    worker.run()
    assert len(worker.answer(key)) == 21  # now all pages are its own, and not enough
    worker.finish()


def test_what_can_never_fit_fails_alone() -> None:
    worker = worker_of(num_pages=4)
    key = worker.generate("a", prompt(1, 9), 40)
    other = worker.generate("b", prompt(2, 9), 3)
    worker.finish()
    failures = [event for event in worker.events if isinstance(event, SequenceFailed)]
    assert [failure.key for failure in failures] == [key]
    assert isinstance(failures[0].error, TooLarge)
    assert worker.answer(key) == worker.expected_answer(prompt(1, 9), 8)
    assert worker.answer(other) == worker.expected_answer(prompt(2, 9), 3)


def test_a_prompt_of_all_pages_is_served() -> None:
    worker = worker_of(num_pages=4)
    key = worker.generate("a", prompt(1, 16), 1)
    worker.finish()
    assert worker.answer(key) == worker.expected_answer(prompt(1, 16), 1)
    assert any(isinstance(event, SequenceDone) for event in worker.events)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_running must be at least 1"):
        worker_of(max_running=0)
