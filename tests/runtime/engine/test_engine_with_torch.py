"""The engine and the torch runner together: continuous batching, prefix reuse and preemption leave
every answer as it would be alone."""

import random
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import replace

import pytest

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.batching import Batch
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.decode_cost import DecodeCost
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import Generated
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens

TINY = shipped_model()
OUTPUT_TOKENS = 24


@pytest.fixture(scope="module")
def runner() -> TorchRunner:
    return load_runner(TINY, num_pages=64, page_size=8, threads=1, host_pages=40)


def make_engine(runner: TorchRunner, num_pages: int | None = None, host_pages: int = 0) -> Engine:
    return Engine(
        EngineConfig(
            num_pages=num_pages or runner.pool.num_pages,
            page_size=runner.pool.page_size,
            host_pages=host_pages,
            max_batch_tokens=64,
            chunk_tokens=32,
        )
    )


def answer(
    engine: Engine,
    runner: TorchRunner,
    prompts: Items[list[int]],
    on_batch: Callable[[Batch], None] = lambda batch: None,
) -> list[list[int]]:
    sampling = Sampling(max_tokens=OUTPUT_TOKENS, temperature=0.0)
    answers: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        call = PlanCall(f"p{index}", pack_tokens(prompt), (StartGenerateCall("g", 0, sampling),))
        answers[engine.submit(call, now=0.0).key] = []
    while (batch := engine.plan(now=0.0)) is not None:
        on_batch(batch)
        engine.commit(batch, runner.run(batch), now=0.0)
        for event in engine.drain():
            if isinstance(event, Generated):
                answers[event.key].append(event.token)
    engine.check_integrity()
    assert engine.is_idle
    return list(answers.values())


def prompts_of(lengths: Items[int]) -> list[list[int]]:
    rng = random.Random(4)
    shared = [rng.randrange(5, 2000) for _ in range(40)]
    return [shared + [rng.randrange(5, 2000) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize(("num_pages", "host_pages"), [(64, 0), (20, 0), (20, 40)])
def test_answers_together_are_those_alone(
    runner: TorchRunner, num_pages: int, host_pages: int
) -> None:
    """20 pages are not enough for all: some start again, or come back from host memory."""
    prompts = prompts_of([1, 3, 8, 20, 40])
    alone = [answer(make_engine(runner), runner, [prompt])[0] for prompt in prompts]
    assert answer(make_engine(runner, num_pages, host_pages), runner, prompts) == alone


@pytest.mark.parametrize(("num_pages", "host_pages"), [(64, 0), (60, 40)])
def test_answers_in_batches_of_similar_length_are_those_alone(
    runner: TorchRunner, num_pages: int, host_pages: int
) -> None:
    """As if the kernel waited for the longest. 60 pages are not enough for all who are ready."""
    prompts = prompts_of([1, 90, 3, 8, 95, 20, 90, 5, 9, 100])
    alone = [answer(make_engine(runner), runner, [prompt])[0] for prompt in prompts]
    config = make_engine(runner, num_pages, host_pages).config
    cost = DecodeCost(fixed_s=1e-3, longest_s=1e-3)
    engine = Engine(
        replace(config, batch="aligned", patience_s=0.0, max_running=4, decode_cost=cost)
    )
    batches: list[Batch] = []
    assert answer(engine, runner, prompts, batches.append) == alone
    came_back = [c for b in batches for c in b.prefill if c.end > c.sequence.num_prompt]
    assert came_back or not host_pages, "nobody was taken off the device"


def test_prefixes_that_went_to_host_memory_do_not_change_answers(runner: TorchRunner) -> None:
    prompts = prompts_of([1, 3, 8, 20, 40])
    engine = make_engine(runner, num_pages=20, host_pages=40)
    first = answer(engine, runner, prompts)
    found = [engine.match(pack_tokens(prompt)) for prompt in prompts]
    assert [match.num_tokens for match in found] == [len(prompt) - 1 for prompt in prompts]
    assert sum(match.host_tokens for match in found) > 0
    assert answer(engine, runner, prompts) == first


def test_cached_prefixes_do_not_change_answers(runner: TorchRunner) -> None:
    prompts = prompts_of([1, 3, 8, 20, 40])
    engine = make_engine(runner)
    first = answer(engine, runner, prompts)
    assert engine.match_length(pack_tokens(prompts[0])) > 0, "the second round finds the first's KV"
    assert answer(engine, runner, prompts) == first
