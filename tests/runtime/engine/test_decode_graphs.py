"""Steps in recorded sizes: padding disturbs nobody, and what cannot be recorded still runs."""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.attention import Attention, GatheredAttention, StepAttention
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.decode_graphs import DecodeGraphs, batch_sizes
from mserve.runtime.engine.inputs import StepInputs, padded_decodes
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence

TINY = shipped_model()
PAGE_SIZE = 16
NUM_PAGES = 128
MOST = 24


class CountedAttention:
    """Knows for how many rows each of its steps was planned."""

    def __init__(self, inner: Attention, num_rows: int, planned: list[int]) -> None:
        self._inner = inner
        self._num_rows = num_rows
        self._planned = planned

    def plan(self, inputs: StepInputs) -> StepAttention:
        assert len(inputs.decode_lengths) == self._num_rows
        self._planned.append(self._num_rows)
        return self._inner.plan(inputs)


@pytest.fixture(scope="module")
def plain() -> TorchRunner:
    return load_runner(TINY, num_pages=NUM_PAGES, page_size=PAGE_SIZE, threads=1)


@pytest.fixture
def planned() -> list[int]:
    return []


@pytest.fixture
def recorded(plain: TorchRunner, planned: list[int]) -> TorchRunner:
    """The same model over a pool with a spare page. "Recorded" here means: called again."""
    pool = KvPool(
        plain.config,
        num_pages=NUM_PAGES,
        page_size=PAGE_SIZE,
        dtype=torch.float32,
        device=torch.device("cpu"),
        spare=True,
    )
    attention = GatheredAttention(pool)

    def attention_of(size: int) -> CountedAttention:
        return CountedAttention(attention, size, planned)

    graphs = DecodeGraphs(plain.model, pool, attention_of, MOST, lambda compute: compute)
    planned.clear()
    return replace(plain, pool=pool, attention=attention, graphs=graphs)


def make_sequences(by_hand: Any, lengths: Items[int]) -> list[Sequence]:
    prompts = by_hand.prompts(lengths)
    made: list[Sequence] = by_hand.sequences(prompts, num_pages=NUM_PAGES, num_tokens=12)
    return made


def generate(by_hand: Any, runner: TorchRunner, lengths: Items[int]) -> list[list[int]]:
    """All prompts in one step, then all decode: 12 tokens each."""
    sequences = make_sequences(by_hand, lengths)
    chunks = tuple(Chunk(s, 0, s.num_prompt, sample=True) for s in sequences)
    by_hand.step(runner, Batch(chunks, ()))
    answers: list[list[int]] = by_hand.generate(runner, sequences)
    return answers


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5])])
def test_small_batch_sizes(most: int, sizes: list[int]) -> None:
    assert batch_sizes(most) == sizes


def test_sizes_leave_little_padding() -> None:
    sizes = batch_sizes(256)
    assert sizes == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(larger <= 2 * smaller for smaller, larger in pairwise(sizes))
    assert batch_sizes(100)[-2:] == [96, 100]


def test_padding_goes_to_the_spare_page(by_hand: Any) -> None:
    sequences = make_sequences(by_hand, [20, 5])
    for sequence in sequences:
        sequence.tokens.append(7)
        sequence.num_computed = sequence.num_prompt
    inputs = StepInputs.of(Batch((), tuple(sequences)), PAGE_SIZE)
    padded = padded_decodes(inputs, 4, NUM_PAGES, PAGE_SIZE)
    assert padded.token_ids.tolist() == [7, 7, 0, 0]
    assert padded.positions.tolist() == [20, 5, 0, 0]
    assert padded.slots.tolist() == [*inputs.slots.tolist(), *[NUM_PAGES * PAGE_SIZE] * 2]
    assert padded.decode_lengths.tolist() == [21, 6, 1, 1]
    assert [pages.tolist() for pages in padded.decode_pages[2:]] == [[NUM_PAGES]] * 2
    with pytest.raises(AssertionError, match="do not fit"):
        padded_decodes(inputs, 1, NUM_PAGES, PAGE_SIZE)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (8, 8), (9, 16), (17, 24)])
def test_recorded_steps_answer_as_plain_ones(
    by_hand: Any,
    plain: TorchRunner,
    recorded: TorchRunner,
    planned: list[int],
    count: int,
    size: int,
) -> None:
    lengths = [3 + 7 * index % 40 for index in range(count)]
    assert generate(by_hand, recorded, lengths) == generate(by_hand, plain, lengths)
    assert planned == [size] * 11


def test_nobody_elses_page_is_written(by_hand: Any, recorded: TorchRunner) -> None:
    sequences = make_sequences(by_hand, [20, 20, 20])
    by_hand.step(recorded, Batch(tuple(Chunk(s, 0, 20, sample=True) for s in sequences), ()))
    before = recorded.pool.tensor.clone()
    by_hand.step(recorded, Batch((), tuple(sequences)))
    changed = (recorded.pool.tensor != before).any(dim=(0, 1, 3, 4, 5)).nonzero().view(-1).tolist()
    own = {sequence.pages[20 // PAGE_SIZE] for sequence in sequences}
    assert set(changed) == own | {recorded.pool.spare_page}


Make = Callable[[list[Sequence]], Batch]


@pytest.mark.parametrize(
    ("count", "make"),
    [
        (MOST + 1, lambda s: Batch((), tuple(s))),
        (4, lambda s: Batch((Chunk(s[0], 0, 20, sample=True),), tuple(s[1:]))),
    ],
)
def test_other_steps_are_not_recorded(
    by_hand: Any, recorded: TorchRunner, planned: list[int], count: int, make: Make
) -> None:
    sequences = make_sequences(by_hand, [6] * count)
    for sequence in sequences:
        sequence.tokens.append(7)
        sequence.num_computed = sequence.num_prompt
    sequences[0].tokens.extend([7] * 20)
    tokens = recorded.run(make(sequences)).tokens
    assert tokens is not None
    assert len(tokens) == count
    assert planned == []


def test_a_step_that_others_wait_for_is_not_recorded(
    by_hand: Any, recorded: TorchRunner, planned: list[int]
) -> None:
    """Its layers are reported one by one."""
    (sequence,) = make_sequences(by_hand, [6])
    sequence.tokens.append(7)
    sequence.num_computed = 6
    layers: list[int] = []
    recorded.run(Batch((), (sequence,)), layers.append)
    assert layers == list(range(recorded.config.num_layers))
    assert planned == []
