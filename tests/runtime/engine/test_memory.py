"""Planning memory: pages from bytes and shares, and a largest batch that is as large as it says."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine import sampler
from mserve.runtime.engine.batching import Batch, StepOutOfMemory
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.loading import LoadedModel, load_runner
from mserve.runtime.engine.memory import DEFAULT_BYTES, largest_batch, pages_in, pages_in_share
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.errors import ConfigError

TINY = shipped_model()
GIB = 1 << 30


def test_pages_in_bytes() -> None:
    assert pages_in(1000, 100) == 10
    assert pages_in(199, 100) == 1
    with pytest.raises(ConfigError, match="99 bytes of KV memory hold no page; a page takes 100"):
        pages_in(99, 100)


def test_a_share_of_what_is_free_less_what_computing_needs() -> None:
    """An H200 with Llama 3.1 8B in 16 bits: 2 MiB for each page of 16 tokens."""
    pages = pages_in_share(120 * GIB, 0.9, 4 * GIB, 2 << 20)
    assert pages == 104 * GIB // (2 << 20)
    assert pages_in_share(120 * GIB, 1.0, 4 * GIB, 2 << 20) > pages
    with pytest.raises(ConfigError, match="No GPU memory is left for KV"):
        pages_in_share(4 * GIB, 0.9, 4 * GIB, 2 << 20)


@pytest.mark.parametrize(
    ("tokens", "sequences", "positions"),
    [(64, 8, 4096), (64, 1, 4096), (8, 64, 4096), (100, 4, 40), (1, 1, 16)],
)
def test_the_largest_batch(tokens: int, sequences: int, positions: int) -> None:
    batch = largest_batch(tokens, sequences, positions, page_size=16)
    inputs = StepInputs.of(batch, page_size=16)
    assert len(inputs.token_ids) == tokens
    assert len(batch.sampled) == min(tokens, sequences)
    assert inputs.positions.max() < positions
    assert inputs.slots.max() < 16  # page 0


def test_the_largest_batch_runs_on_one_page() -> None:
    runner = load_runner(TINY, num_pages=1, threads=1)
    drawn = runner.run(largest_batch(100, 20, runner.config.max_positions, 16)).tokens
    assert drawn is not None
    assert len(drawn) == 20


def test_the_largest_batch_is_drawn_in_the_costliest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greedy one would leave no memory for the draws of requests with a seed and a top-p."""
    rows: list[int] = []
    truncated = sampler.truncated

    def note(probabilities: torch.Tensor, samplings: Any) -> torch.Tensor:
        rows.append(sum(one.top_p < 1 for one in samplings))
        return truncated(probabilities, samplings)

    monkeypatch.setattr(sampler, "truncated", note)
    runner = load_runner(TINY, num_pages=1, threads=1)
    by_device = Sampler(runner.config.eos_ids, np.random.default_rng(0), unseeded=fail_to_draw)
    replace(runner, sampler=by_device).run(largest_batch(50, 7, 4096, 16))
    assert rows == [7]


def fail_to_draw(*_: object) -> torch.Tensor:
    raise AssertionError("the device's own way takes less memory")


def test_draws_are_warm_before_memory_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What their kernels take is not free any more then."""
    order: list[str] = []
    monkeypatch.setattr(Sampler, "warm_up", lambda *_: order.append("warm"))

    def plan_one(*_: object) -> int:
        order.append("planned")
        return 1

    monkeypatch.setattr(LoadedModel, "plan_pages", plan_one)
    load_runner(TINY, threads=1)
    assert order == ["warm", "planned"]


def test_without_a_word_a_cpu_gets_the_default() -> None:
    runner = load_runner(TINY, threads=1)
    pool = runner.pool
    page_bytes = pool.page_size * pool.num_layers * pool.bytes_per_token_layer
    assert pool.num_pages == DEFAULT_BYTES // page_bytes


@dataclass
class FullDevice:
    """An attention that no memory is left for."""

    def plan(self, inputs: StepInputs) -> Any:
        raise torch.OutOfMemoryError(f"no room for {len(inputs.token_ids)} rows\nmuch advice")


def test_memory_that_runs_out_is_an_error_of_the_step() -> None:
    runner = replace(load_runner(TINY, num_pages=4, threads=1), attention=FullDevice())
    with pytest.raises(StepOutOfMemory, match=r"no room for 10 rows$"):
        runner.run(largest_batch(10, 2, 64, 16))
    assert runner.run(Batch((), ())).tokens == []
