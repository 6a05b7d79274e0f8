"""The same engine under a virtual clock and a cost model: deterministic, and runs of equal steps in
closed form decide and take exactly what single steps do."""

import random
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mserve.runtime.engine.batching import Batch, StepOutput
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import BlocksChanged, EngineEvent, Generated
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens


class LinearCost:
    """A `StepCost`: so much per step, per token computed and per position attended to."""

    def step_time(self, batch: Batch) -> tuple[float, float]:
        tokens = sum(chunk.end - chunk.begin for chunk in batch.prefill) + len(batch.decode)
        attended = sum(len(sequence.tokens) for sequence in batch.decode)
        return 0.004 + 5e-5 * tokens + 1e-7 * attended, 1e-7 * len(batch.decode)


@dataclass(frozen=True)
class Arrival:
    time: float
    call: PlanCall


def traffic(seed: int, count: int, rate: float) -> list[Arrival]:
    rng = random.Random(seed)
    arrivals, now = [], 0.0
    for index in range(count):
        now += rng.expovariate(rate)
        shared = [rng.randrange(3)] * rng.randrange(60)
        tokens = shared + [rng.randrange(1000) for _ in range(rng.randint(1, 60))]
        start = StartGenerateCall("g", 0, Sampling(max_tokens=rng.randint(1, 40)))
        call = PlanCall(
            f"p{index}",
            pack_tokens(tokens),
            (start,),
            priority=float(rng.randrange(3)),
            deadline_s=rng.choice([None, rng.random()]),
        )
        arrivals.append(Arrival(now, call))
    return arrivals


def simulate(arrivals: list[Arrival], config: EngineConfig) -> list[tuple[float, EngineEvent]]:
    """The driver of a simulation: one turn per run of equal steps, cut at the next arrival."""
    engine, cost = Engine(config), LinearCost()
    log: list[tuple[float, EngineEvent]] = []
    waiting, now = list(reversed(arrivals)), 0.0
    while waiting or not engine.is_idle:
        while waiting and waiting[-1].time <= now:
            engine.submit(waiting.pop().call, now)
        batch = engine.plan(now)
        if batch is None:
            assert waiting, "sequences are left and nothing happens any more"
            now = waiting[-1].time
            continue
        first_s, slope_s = cost.step_time(batch)
        steps, end = 1, now + first_s
        while steps < batch.repeat and not (waiting and waiting[-1].time <= end):
            end += first_s + slope_s * steps
            steps += 1
        now = end
        engine.commit(batch, StepOutput(steps=steps), now)
        log += [(now, event) for event in engine.drain()]
    engine.check_integrity()
    return log


CONFIG = EngineConfig(
    num_pages=60, page_size=4, chunk_tokens=16, max_batch_tokens=32, max_running=6
)


def answers(log: list[tuple[float, EngineEvent]]) -> dict[str, tuple[float, int, int]]:
    """When each answer ended, its length and what of its prompt was cached."""
    return {
        event.key: (now, event.completion_tokens, event.cached_tokens)
        for now, event in log
        if isinstance(event, Generated) and event.finished
    }


def block_changes(log: list[tuple[float, EngineEvent]]) -> list[tuple[int, bool]]:
    changes: dict[int, bool] = {}
    for _, event in log:
        if isinstance(event, BlocksChanged):
            changes |= dict.fromkeys(event.evicted, False) | dict.fromkeys(event.stored, True)
    return sorted(changes.items())


def test_two_runs_are_identical() -> None:
    config = replace(CONFIG, max_repeat=1000)
    assert simulate(traffic(1, 60, 20.0), config) == simulate(traffic(1, 60, 20.0), config)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([3.0, 20.0, 200.0]),
    host_pages=st.sampled_from([0, 20]),
    queue=st.sampled_from(["fcfs", "deadline", "priority"]),
)
@example(seed=7, rate=20.0, host_pages=20, queue="fcfs")  # evicts in the last steps of a run
def test_repeating_a_batch_changes_no_decision_and_no_time(
    seed: int, rate: float, host_pages: int, queue: Literal["fcfs", "deadline", "priority"]
) -> None:
    arrivals = traffic(seed, 25, rate)
    config = replace(CONFIG, host_pages=host_pages, queue=queue, priority_step_s=0.2)
    single = simulate(arrivals, config)
    repeated = simulate(arrivals, replace(config, max_repeat=1000))
    assert len(repeated) < len(single)
    assert block_changes(repeated) == block_changes(single)
    expected = answers(single)
    assert len(expected) == len(arrivals)
    for key, (end, *counts) in answers(repeated).items():
        assert end == pytest.approx(expected[key][0], abs=1e-6)
        assert counts == list(expected[key][1:])
