"""Aligned batching in the engine: answers are those of plain batching, runs of steps are those of single
ones, nobody is lost whose KV leaves the device, and where there is nothing to gain nothing changes."""

import random
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mserve.runtime.engine.batching import Batch, LaunchedStep, StepOutput
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.decode_cost import DecodeCost
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import EngineEvent, Generated
from mserve.runtime.engine.fake_runner import FakeRunner
from mserve.runtime.engine.lazy_runner import LazyRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens

UNSPLIT = DecodeCost(fixed_s=0.004, sequence_s=2e-5, position_s=1e-6, longest_s=2e-4)
SPLIT = replace(UNSPLIT, longest_s=0.0)
PATIENCE_S = 0.05 + 3e-9  # no step's end is another step's time and this
CONFIG = EngineConfig(
    num_pages=150,
    page_size=4,
    host_pages=400,
    chunk_tokens=32,
    max_batch_tokens=64,
    max_running=6,
    max_model_len=200,
    batch="aligned",
    patience_s=PATIENCE_S,
    decode_cost=UNSPLIT,
)
PLAIN = replace(CONFIG, batch="continuous")


@dataclass(frozen=True)
class Arrival:
    at_s: float
    tokens: list[int]
    num_output: int

    def call(self, number: int) -> PlanCall:
        sampling = Sampling(max_tokens=self.num_output)
        step = StartGenerateCall("g", 0, sampling)
        return PlanCall(f"p{number}", pack_tokens(self.tokens), (step,))


def mixed(
    seed: int, count: int, rate: float, lengths: Items[int] = (8, 8, 10, 12, 100)
) -> list[Arrival]:
    rng = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        tokens = [rng.randrange(1000) for _ in range(rng.choice(lengths))]
        arrivals.append(Arrival(now, tokens, rng.randint(5, 40)))
    return arrivals


@dataclass
class Log:
    """What a run came to: events with their times, batches, and the time each answer's gaps took."""

    events: list[tuple[float, EngineEvent]]
    batches: list[Batch]

    @property
    def end_s(self) -> float:
        return max(now for now, _ in self.events)

    def answers(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for _, event in self.events:
            if isinstance(event, Generated):
                found.setdefault(event.key, []).extend([event.token] * event.repeated)
        return found

    def ends(self) -> dict[str, tuple[float, int, int]]:
        return {
            event.key: (now, event.completion_tokens, event.cached_tokens)
            for now, event in self.events
            if isinstance(event, Generated) and event.finished
        }


def step_time(batch: Batch, cost: DecodeCost) -> tuple[float, float]:
    """(first, slope): decodes as `cost` says, prompts by their tokens."""
    contexts = [sequence.num_computed + 1 for sequence in batch.decode]
    decode_s = cost.step_time(len(contexts), sum(contexts), max(contexts, default=0))
    num_new = sum(chunk.end - chunk.begin for chunk in batch.prefill)
    num_moved = 4 * (len(batch.moves.saves) + len(batch.moves.restores))
    slope_s = cost.position_s * len(contexts) + cost.longest_s
    return decode_s + 2e-5 * num_new + cost.move_s * num_moved, slope_s


def simulate(arrivals: list[Arrival], config: EngineConfig, cost: DecodeCost | None = None) -> Log:
    """With tokens if each batch is one step, as by the fake runner."""
    engine, cost = Engine(config), cost or config.decode_cost
    runner = FakeRunner(config.num_pages, config.page_size, host_pages=config.host_pages)
    log = Log([], [])
    waiting, now = list(enumerate(arrivals))[::-1], 0.0
    while waiting or not engine.is_idle:
        while waiting and waiting[-1][1].at_s <= now:
            number, arrival = waiting.pop()
            engine.submit(arrival.call(number), now)
        batch = engine.plan(now)
        if batch is None:
            assert waiting, "sequences are left and nothing happens any more"
            now = waiting[-1][1].at_s
            continue
        log.batches.append(batch)
        first_s, slope_s = step_time(batch, cost)
        cut_s = min(batch.until, waiting[-1][1].at_s if waiting else inf)
        steps, now = 1, now + first_s
        while steps < batch.repeat and not batch.moves and now < cut_s:
            now += first_s + slope_s * steps
            steps += 1
        output = runner.run(batch) if config.max_repeat == 1 else StepOutput(steps=steps)
        engine.commit(batch, output, now)
        log.events += [(now, event) for event in engine.drain()]
        engine.check_integrity()
    return log


@pytest.mark.parametrize("host_pages", [0, 60, 400])
@pytest.mark.parametrize("num_pages", [60, 150])
def test_answers_are_those_of_plain_batching(num_pages: int, host_pages: int) -> None:
    arrivals = mixed(1, 60, 400.0)
    config = replace(CONFIG, num_pages=num_pages, host_pages=host_pages)
    aligned = simulate(arrivals, config)
    plain = simulate(arrivals, replace(config, batch="continuous"))
    assert aligned.answers() == plain.answers()
    assert len(aligned.answers()) == 60
    assert aligned.batches != plain.batches


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_pages", [60, 150])
def test_answers_of_the_overlapped_loop_are_the_same(num_pages: int, seed: int) -> None:
    """A step planned ahead takes pages from nobody, whoever is chosen for it."""
    arrivals = mixed(seed, 40, 1000.0)
    config = replace(CONFIG, num_pages=num_pages)
    found, num_ahead = overlapped(arrivals, config)
    assert found == simulate(arrivals, replace(config, batch="continuous")).answers()
    assert num_ahead > 50


def overlapped(arrivals: list[Arrival], config: EngineConfig) -> tuple[dict[str, list[int]], int]:
    """The answers to requests that are all there, and how many steps were planned ahead."""
    engine = Engine(config)
    runner = FakeRunner(config.num_pages, config.page_size, host_pages=config.host_pages)
    lazy = LazyRunner(runner)
    for number, arrival in enumerate(arrivals):
        engine.submit(arrival.call(number), 0.0)
    log, now = Log([], []), 0.0
    running: tuple[Batch, LaunchedStep] | None = None
    while not engine.is_idle:
        before, running, now = running, None, now + 0.01
        batch = engine.plan(now)
        if batch is not None:
            log.batches.append(batch)
            running = batch, lazy.launch(batch, before and before[1])
        if before is not None:
            engine.commit(before[0], before[1].result(), now)
            log.events += [(now, event) for event in engine.drain()]
        assert batch is not None or before is not None, "nothing happens any more"
        engine.check_integrity()
    return log.answers(), lazy.num_ahead


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([20.0, 200.0]),
    num_pages=st.sampled_from([60, 150]),
    host_pages=st.sampled_from([0, 400]),
)
@example(seed=10, rate=200.0, num_pages=60, host_pages=400)  # parked in the midst of a run
def test_repeating_a_batch_changes_no_decision_and_no_time(
    seed: int, rate: float, num_pages: int, host_pages: int
) -> None:
    arrivals = mixed(seed, 25, rate)
    config = replace(CONFIG, num_pages=num_pages, host_pages=host_pages)
    single = simulate(arrivals, config)
    repeated = simulate(arrivals, replace(config, max_repeat=1000))
    assert len(repeated.batches) < len(single.batches)
    expected = single.ends()
    assert len(expected) == len(arrivals)
    for key, (end_s, *counts) in repeated.ends().items():
        assert end_s == pytest.approx(expected[key][0], abs=1e-6)
        assert counts == list(expected[key][1:])


@pytest.mark.parametrize(
    ("lengths", "cost"),
    [
        ((8, 8, 10, 12, 100), SPLIT),
        ((10, 10), UNSPLIT),
        ((4, 5, 6), replace(UNSPLIT, fixed_s=0.05)),
    ],
)
def test_with_nothing_to_gain_it_is_plain_batching(
    lengths: tuple[int, ...], cost: DecodeCost
) -> None:
    arrivals = mixed(2, 60, 400.0, lengths)
    config = replace(CONFIG, decode_cost=cost)
    aligned, plain = simulate(arrivals, config), simulate(arrivals, PLAIN, cost)
    assert aligned.events == plain.events
    assert shapes(aligned) == shapes(plain)


def shapes(log: Log) -> list[tuple[list[tuple[str, int, int]], list[str]]]:
    return [
        ([(c.sequence.key, c.begin, c.end) for c in b.prefill], [s.key for s in b.decode])
        for b in log.batches
    ]


@pytest.mark.parametrize("longest_s", [0.0, 1e-5, 2e-5, 5e-5, 2e-4])
@pytest.mark.parametrize("rate", [10.0, 100.0, 400.0])
@pytest.mark.parametrize(("num_pages", "host_pages"), [(60, 60), (150, 0), (400, 400)])
def test_it_never_loses_to_plain_batching(
    longest_s: float, rate: float, num_pages: int, host_pages: int
) -> None:
    """Not 1% of the time until all answers are there, whatever the kernel's imbalance."""
    arrivals = mixed(3, 50, rate)
    cost = replace(UNSPLIT, longest_s=longest_s, move_s=1e-6)
    config = replace(CONFIG, num_pages=num_pages, host_pages=host_pages, max_repeat=1000)
    aligned = simulate(arrivals, replace(config, decode_cost=cost))
    plain = simulate(arrivals, replace(config, batch="continuous"), cost)
    assert aligned.end_s <= 1.01 * plain.end_s


def test_it_gains_where_a_kernel_waits_for_the_longest() -> None:
    arrivals = mixed(1, 60, 400.0)
    config = replace(CONFIG, num_pages=400, max_repeat=1000)
    aligned, plain = (
        simulate(arrivals, config),
        simulate(arrivals, replace(config, batch="continuous")),
    )
    assert aligned.end_s < 0.85 * plain.end_s


def test_those_who_come_all_at_once_are_weighed_at_once() -> None:
    """Nobody comes or goes for a while after them."""
    arrivals = [replace(each, at_s=0.0) for each in mixed(1, 60, 400.0)]
    config = replace(CONFIG, num_pages=400, max_repeat=1000)
    aligned = simulate(arrivals, config)
    plain = simulate(arrivals, replace(config, batch="continuous"))
    assert aligned.end_s < 0.72 * plain.end_s


def test_kv_of_those_passed_over_goes_to_host_memory_and_comes_back() -> None:
    arrivals = mixed(1, 60, 400.0)
    log = simulate(arrivals, CONFIG)
    assert sum(len(batch.moves.saves) for batch in log.batches) > 100
    assert sum(len(batch.moves.restores) for batch in log.batches) > 100
    num_computed = sum(c.end - c.begin for b in log.batches for c in b.prefill)
    num_tails = sum(len(batch.moves.restores) for batch in log.batches) * CONFIG.page_size
    assert num_computed < sum(len(each.tokens) for each in arrivals) + num_tails


def test_a_parked_one_can_be_cancelled_and_counts_as_no_backlog() -> None:
    engine = Engine(CONFIG)
    runner = FakeRunner(CONFIG.num_pages, CONFIG.page_size, host_pages=CONFIG.host_pages)
    arrivals = mixed(1, 60, 1e9)
    keys = [engine.submit(each.call(i), 0.0).key for i, each in enumerate(arrivals)]
    now = 0.0
    parked: list[Sequence] = []
    while not parked:
        batch = engine.plan(now)
        assert batch is not None
        engine.commit(batch, runner.run(batch), now)
        now += 0.01
        found = [engine.find(key) for key in keys]
        parked = [s for s in found if s is not None and s.num_output and not s.pages]
    backlog = engine.stats().prefill_tokens
    engine.cancel(parked[0].key, now)
    assert engine.stats().prefill_tokens == backlog
    for key in keys:
        engine.cancel(key, now)
    engine.check_integrity()
    assert engine.is_idle
