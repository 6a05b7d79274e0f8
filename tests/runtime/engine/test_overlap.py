"""The overlapped loop answers as the plain one does: a step planned before its predecessor's tokens
are known reads, writes and draws nothing else."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.attention import GatheredAttention
from mserve.runtime.engine.batching import (
    Batch,
    DeviceLost,
    LaunchedStep,
    LaunchingRunner,
    StepOutOfMemory,
)
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.decode_graphs import DecodeGraphs
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import EngineEvent, Generated, SequenceDone, SequenceFailed
from mserve.runtime.engine.fake_runner import FakeRunner
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.launches import device_errors
from mserve.runtime.engine.lazy_runner import LazyRunner
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import EngineFailure
from mserve.runtime.messages import (
    PlanCall,
    RemoteSendCall,
    Sampling,
    StartGenerateCall,
    pack_tokens,
)
from mserve.runtime.worker.steps import RUNNER_ERRORS

TINY = shipped_model()
CONFIG = EngineConfig(
    num_pages=60, page_size=4, chunk_tokens=8, max_batch_tokens=24, max_running=6, max_model_len=90
)
Written = list[tuple[Sequence, int]]  # pages that a step writes, and whose they are


class Loop:
    """One engine, driven with up to two batches uncommitted, or plainly."""

    def __init__(self, config: EngineConfig, runner: LaunchingRunner, *, overlaps: bool) -> None:
        self.engine = Engine(config)
        self.runner = runner
        self.events: list[EngineEvent] = []
        self.batches: list[Batch] = []
        self.num_ahead = 0
        self._overlaps = overlaps
        self._running: tuple[Batch, LaunchedStep, Written] | None = None

    def submit(self, plan: str, prompt: list[int], sampling: Sampling) -> str:
        step = StartGenerateCall("g", 0, sampling)
        return self.engine.submit(PlanCall(plan, pack_tokens(prompt), (step,)), 0.0).key

    def turn(self) -> bool:
        before, self._running = self._running, None
        batch = self.engine.plan(0.0)
        if batch is not None:
            self.batches.append(batch)
            self.num_ahead += before is not None
            launched = self.runner.launch(batch, before and before[1])
            self._running = (batch, launched, written(batch))
        if before is not None:
            self._commit(*before)
        if self._running is not None and not self._overlaps:
            self._commit(*self._running)
            self._running = None
        self.engine.check_integrity()
        return batch is not None or before is not None

    def _commit(self, batch: Batch, launched: LaunchedStep, pages: Written) -> None:
        for sequence, page in pages:
            assert page in sequence.pages, "a page was freed while a step might write it"
        self.engine.commit(batch, launched.result(), 0.0)
        self.events += self.engine.drain()

    def run(self) -> None:
        while self.turn():
            pass

    def answer(self, key: str) -> list[int]:
        return [e.token for e in self.events if isinstance(e, Generated) and e.key == key]

    def ends(self, key: str) -> list[str]:
        found = [e for e in self.events if isinstance(e, Generated) and e.key == key]
        return [e.finished for e in found if e.finished]

    def check_idle(self) -> None:
        assert self.engine.is_idle
        assert self.engine.stats().kv_used_tokens == 0
        self.engine.check_integrity()


def written(batch: Batch) -> Written:
    """Of the last position of each span: the pages before are the sequence's as long as that is, or
    equal ones that the cache has."""
    spans = [(chunk.sequence, chunk.end) for chunk in batch.prefill]
    spans += [(sequence, sequence.num_computed + 1) for sequence in batch.decode]
    return [(sequence, sequence.pages[(end - 1) // 4]) for sequence, end in spans if end % 4]


def fake(config: EngineConfig) -> LazyRunner:
    runner = FakeRunner(config.num_pages, config.page_size, vocab_size=64, host_pages=20)
    return LazyRunner(runner)


def traffic(seed: int, count: int) -> list[tuple[int, list[int], Sampling]]:
    """(turn of arrival, prompt, sampling): shared beginnings, ends by length, eos and stop tokens,
    and a few requests whose next draw needs the tokens before."""
    rng = random.Random(seed)
    found, turn = [], 0
    for _ in range(count):
        turn += rng.choice([0, 0, 1, 7])
        prompt = [rng.randrange(3)] * rng.randrange(20)
        prompt += [rng.randrange(64) for _ in range(rng.randint(1, 25))]
        options: dict[str, Any] = {}
        if rng.random() < 0.4:
            options["stop_token_ids"] = tuple(rng.randrange(64) for _ in range(8))
        if rng.random() < 0.1:
            options["presence_penalty"] = 0.5
        sampling = Sampling(max_tokens=rng.randint(1, 30), temperature=0.0, **options)
        found.append((turn, prompt, sampling))
    return found


def serve(loop: Loop, seed: int, *, cancels: bool = False) -> dict[str, list[int]]:
    """The answers; of those cancelled what came before."""
    rng, arrivals, turn = random.Random(seed), list(reversed(traffic(seed, 40))), 0
    keys: list[str] = []
    while arrivals or not loop.engine.is_idle:
        while arrivals and arrivals[-1][0] <= turn:
            _, prompt, sampling = arrivals.pop()
            keys.append(loop.submit(f"p{len(keys)}", prompt, sampling))
        if cancels and keys and rng.random() < 0.2:
            loop.engine.cancel(rng.choice(keys), 0.0)
        loop.turn()
        turn += 1
    loop.run()
    loop.check_idle()
    return {key: loop.answer(key) for key in keys}


@pytest.mark.parametrize("num_pages", [60, 24])
@pytest.mark.parametrize("host_pages", [0, 20])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_those_of_the_plain_loop(num_pages: int, host_pages: int, seed: int) -> None:
    """With 24 pages, some are preempted and start again."""
    config = replace(
        CONFIG, num_pages=num_pages, host_pages=host_pages, eos_token_ids=frozenset({1, 2})
    )
    plain = Loop(config, fake(config), overlaps=False)
    overlapped = Loop(config, fake(config), overlaps=True)
    expected = serve(plain, seed)
    assert serve(overlapped, seed) == expected
    assert plain.num_ahead == 0
    assert overlapped.num_ahead > len(overlapped.batches) / 3
    for key in expected:
        assert overlapped.ends(key) == plain.ends(key)
        assert len(plain.ends(key)) == 1


@pytest.mark.parametrize("num_pages", [60, 24])
@pytest.mark.parametrize("seed", range(4))
def test_cancels_at_any_time_leave_the_others_as_they_are(num_pages: int, seed: int) -> None:
    config = replace(CONFIG, num_pages=num_pages, eos_token_ids=frozenset({1, 2}))
    expected = serve(Loop(config, fake(config), overlaps=False), seed)
    loop = Loop(config, fake(config), overlaps=True)
    found = serve(loop, seed, cancels=True)
    done = {e.key for e in loop.events if isinstance(e, SequenceDone)}
    assert 0 < len(done) < len(expected)
    for key, answer in expected.items():
        if key in done:
            assert found[key] == answer
        else:
            assert found[key] == answer[: len(found[key])]


def test_decodes_are_planned_ahead_up_to_their_certain_end() -> None:
    """No row is computed in vain for an answer that ends by its length."""
    loop = Loop(CONFIG, fake(CONFIG), overlaps=True)
    key = loop.submit("a", [1, 2, 3], Sampling(max_tokens=6))
    loop.run()
    assert len(loop.answer(key)) == 6
    assert [len(batch.prefill) + len(batch.decode) for batch in loop.batches] == [1] * 6
    assert loop.num_ahead == 5
    loop.check_idle()


def test_a_row_of_an_answer_that_has_ended_is_dropped() -> None:
    plain = Loop(CONFIG, fake(CONFIG), overlaps=False)
    key = plain.submit("a", [1, 2, 3], Sampling(max_tokens=9))
    plain.run()
    stop = plain.answer(key)[3]
    loop = Loop(CONFIG, fake(CONFIG), overlaps=True)
    loop.submit("a", [1, 2, 3], Sampling(max_tokens=9, stop_token_ids=(stop,)))
    loop.run()
    assert loop.answer(key) == plain.answer(key)[:4]
    assert loop.ends(key) == ["stop"]
    assert len(loop.batches) == 5, "the last of them was planned before the fourth token was known"
    loop.check_idle()


def test_one_that_still_sends_gets_nothing_of_that_row() -> None:
    """It has ended and keeps its pages until the send is over."""
    plain = Loop(CONFIG, fake(CONFIG), overlaps=False)
    expected = plain.submit("a", [1, 2, 3], Sampling(max_tokens=9))
    plain.run()
    sampling = Sampling(max_tokens=9, stop_token_ids=(plain.answer(expected)[3],))
    loop = Loop(CONFIG, fake(CONFIG), overlaps=True)
    steps = (RemoteSendCall("s", 0, 3, ()), StartGenerateCall("g", 0, sampling))
    key = loop.engine.submit(PlanCall("a", pack_tokens([1, 2, 3]), steps), 0.0).key
    loop.run()
    assert len(loop.batches) == 5
    sequence = loop.engine.find(key)
    assert sequence is not None
    assert (sequence.num_output, sequence.num_computed) == (4, 6)
    loop.engine.send_done(key, "s", 0.0)
    assert loop.answer(key) == plain.answer(expected)[:4]
    loop.check_idle()


@pytest.mark.parametrize(
    "options",
    [
        {"grammar": '{"regex": "a+"}'},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repetition_penalty": 1.2},
        {"logprobs": 0},
    ],
)
def test_who_needs_the_token_is_waited_for(options: dict[str, Any]) -> None:
    loop = Loop(CONFIG, fake(CONFIG), overlaps=True)
    key = loop.submit("a", [1, 2, 3], Sampling(max_tokens=6, **options))
    loop.run()
    assert len(loop.answer(key)) == 6
    assert loop.num_ahead == 0


def test_a_batch_that_fails_takes_the_one_planned_on_it_along() -> None:
    runner = fake(CONFIG)
    loop = Loop(CONFIG, runner, overlaps=True)
    engine = loop.engine
    good, bad = (loop.submit(plan, [seed, 2, 3], Sampling(max_tokens=5)) for plan, seed in
                 (("a", 1), ("b", 2)))  # fmt: skip
    first = engine.plan(0.0)
    second = engine.plan(0.0)
    assert first is not None
    assert second is not None
    with pytest.raises(AssertionError, match="not the one in flight"):
        engine.commit(second, runner.run(first), 0.0)
    with pytest.raises(AssertionError, match="two batches"):
        engine.plan(0.0)
    engine.abandon(first, {bad: EngineFailure("A fault.")})
    loop.run()
    failed = [e.key for e in loop.events if isinstance(e, SequenceFailed)]
    assert failed == [bad]
    plain = Loop(CONFIG, fake(CONFIG), overlaps=False)
    plain.submit("a", [1, 2, 3], Sampling(max_tokens=5))
    plain.run()
    assert loop.answer(good) == plain.answer(good)
    loop.check_idle()


def test_nothing_of_a_foreseen_step_is_seen_outside() -> None:
    """Once the first batch is committed, the sequence is what the plain loop would have."""
    loop = Loop(CONFIG, fake(CONFIG), overlaps=True)
    key = loop.submit("a", [1, 2, 3], Sampling(max_tokens=9))
    sequence = loop.engine.find(key)
    assert sequence is not None
    for num_output in range(5):
        loop.turn()
        assert sequence.num_output == num_output
        assert sequence.num_computed == (2 + num_output if num_output else 0)
        assert min(sequence.tokens) >= 0


# --- the real model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> TorchRunner:
    return load_runner(TINY, num_pages=64, page_size=4, threads=1, host_pages=20)


@pytest.fixture(scope="module")
def recorded(tiny: TorchRunner) -> TorchRunner:
    """Its decodes run in fixed sizes, as CUDA graphs do. "Recorded" here means: called again."""
    pool = KvPool(
        tiny.config,
        num_pages=64,
        page_size=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
        host_pages=20,
        spare=True,
    )
    attention = GatheredAttention(pool)
    graphs = DecodeGraphs(tiny.model, pool, lambda size: attention, 4, lambda compute: compute)
    return replace(tiny, pool=pool, attention=attention, graphs=graphs)


def requests() -> list[tuple[list[int], Sampling]]:
    """Greedy, seeded, and some that need the tokens before."""
    rng, found = random.Random(5), []
    for index in range(12):
        prompt = [rng.randrange(5, 2000) for _ in range(rng.randint(1, 40))]
        options: dict[str, Any] = {"presence_penalty": 0.5} if index == 7 else {}
        options |= {"logprobs": 2} if index == 10 else {}
        options |= {"min_p": 0.01, "top_p": 0.9} if index % 3 == 0 else {}
        temperature = 0.8 * (index % 2)
        max_tokens = 3 if index in (7, 10) else rng.randint(1, 24)
        found.append((prompt, Sampling(max_tokens, temperature=temperature, seed=index, **options)))
    return found


@pytest.mark.parametrize("name", ["tiny", "recorded"])
@pytest.mark.parametrize("num_pages", [60, 30])
def test_the_model_answers_alike(name: str, num_pages: int, request: pytest.FixtureRequest) -> None:
    """Tokens that a step takes from the one before, on the device, are those it would be told."""
    runner: TorchRunner = request.getfixturevalue(name)
    config = replace(
        CONFIG, num_pages=num_pages, host_pages=20, eos_token_ids=frozenset(range(300))
    )

    def answers(*, overlaps: bool) -> list[list[Any]]:
        loop = Loop(config, runner, overlaps=overlaps)
        keys = [loop.submit(f"p{i}", *each) for i, each in enumerate(requests())]
        loop.run()
        loop.check_idle()
        assert (loop.num_ahead > 10) is overlaps
        logprobs = [e.logprobs for e in loop.events if isinstance(e, Generated) and e.logprobs]
        assert logprobs
        return [loop.answer(key) for key in keys]

    assert answers(overlaps=True) == answers(overlaps=False)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory\nmuch more"), StepOutOfMemory),
        (torch.AcceleratorError("an illegal memory access was encountered"), DeviceLost),
    ],
)
def test_errors_of_the_device_are_told_apart(
    error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of the first kind a loop may take for a fault of what it was asked."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(raised), device_errors():
        raise error
    assert not issubclass(DeviceLost, RUNNER_ERRORS)
