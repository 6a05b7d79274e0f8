"""What is handed to FlashInfer, on a stand-in that computes the same with torch and checks what its
documentation asks for. Its kernels themselves are compared on a GPU (tests/gpu)."""

import importlib
from array import array
from dataclasses import replace
from typing import Any

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.attention import GatheredAttention
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.decode_graphs import DecodeGraphs
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.model_config import ModelConfig, read_config
from mserve.runtime.engine.models.llama import Llama, LlamaWeights
from mserve.runtime.engine.models.operations import TorchOperations
from mserve.runtime.engine.rope import YarnScaling
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.engine.weights import DummyWeights
from mserve.runtime.messages import Sampling

TINY = shipped_model()
CPU = torch.device("cpu")
PAGE_SIZE = 16


def leaf(name: str) -> Any:
    return importlib.import_module(f"mserve.runtime.engine.{name}")


def runner_with(stand_in: Any, plain: TorchRunner, most: int) -> TorchRunner:
    """`plain`'s weights over all of FlashInfer; decodes of up to `most` run in fixed buffers."""
    config = plain.config
    pool = KvPool(
        config,
        num_pages=plain.pool.num_pages,
        page_size=PAGE_SIZE,
        dtype=torch.float32,
        device=CPU,
        spare=True,
    )
    weights = plain.model._weights
    operations = leaf("operations_flashinfer").FlashInferOperations(config, weights.embedding)
    model = Llama(config, weights, operations)
    attention = leaf("attention_flashinfer").FlashInferAttention(pool, config)
    graphs = DecodeGraphs(
        model, pool, lambda size: attention.fixed(size, most), most, lambda compute: compute
    )
    return TorchRunner(model, pool, attention, plain.sampler, graphs)


def load_plain(**changes: Any) -> TorchRunner:
    """The shipped model, or one of its shape with other options and random weights."""
    runner = load_runner(TINY, num_pages=96, page_size=PAGE_SIZE, threads=1)
    if not changes:
        return runner
    config: ModelConfig = replace(runner.config, **changes)
    weights = LlamaWeights.load(config, DummyWeights(torch.float32, CPU))
    attention = GatheredAttention(runner.pool, config.sliding_window)
    return replace(runner, model=Llama(config, weights), attention=attention)


def generate(by_hand: Any, runner: TorchRunner) -> list[list[int]]:
    """Prompts of several lengths; the first ones decode while the others are still computed."""
    prompts = by_hand.prompts((1, 15, 16, 17, 90))
    sequences = by_hand.sequences(prompts, num_pages=96, page_size=PAGE_SIZE, num_tokens=12)
    answers: list[list[int]] = by_hand.generate(runner, sequences, chunk_tokens=40)
    return answers


VARIANTS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "window": {"sliding_window": 24},
    "qwen3": {"qk_norm": True},
    "yarn": {"rope_scaling": YarnScaling(4.0, 64, 32.0, 1.0, None, True)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_answers_are_those_of_torch_alone(by_hand: Any, stand_in: Any, name: str) -> None:
    plain = load_plain(**VARIANTS[name])
    expected = generate(by_hand, plain)
    assert len({token for answer in expected for token in answer}) > 4
    assert generate(by_hand, runner_with(stand_in, plain, most=4)) == expected


@pytest.mark.parametrize("window", [None, 24])
def test_attention_equals_torchs(stand_in: Any, window: int | None) -> None:
    """On random KV, where one position more or less shows."""
    config = replace(read_config(TINY), num_layers=1, sliding_window=window)
    pool = KvPool(config, num_pages=96, page_size=PAGE_SIZE, dtype=torch.float32, device=CPU)
    torch.manual_seed(0)
    pool.tensor.normal_()
    sequences = [Sequence(f"s{n}", array("i", [7] * n), n) for n in (90, 17, 33, 64)]
    for index, each in enumerate(sequences):
        each.pages = array("i", range(10 * index, 10 * index + 8))
        each.num_computed = each.num_prompt - 1
    chunks = (Chunk(sequences[0], 40, 90, sample=True), Chunk(sequences[1], 0, 17, sample=True))
    inputs = StepInputs.of(Batch(chunks, tuple(sequences[2:])), PAGE_SIZE)
    q = torch.randn(len(inputs.token_ids), 4, 64)
    k, v = (torch.randn(len(q), 2, 64) for _ in range(2))
    pool.append(0, torch.from_numpy(inputs.slots), k, v)
    expected = GatheredAttention(pool, window).plan(inputs).attend(0, q, k, v)
    attention = leaf("attention_flashinfer").FlashInferAttention(pool, config)
    torch.testing.assert_close(attention.plan(inputs).attend(0, q, k, v), expected)


def test_operations_equal_torchs(stand_in: Any) -> None:
    config = read_config(TINY)
    torch.manual_seed(0)
    ours = TorchOperations(config, torch.empty(0))
    theirs = leaf("operations_flashinfer").FlashInferOperations(config, torch.empty(0))
    x, change, weight = torch.randn(6, 256), torch.randn(6, 256), torch.rand(256)
    torch.testing.assert_close(theirs.norm(x, weight), ours.norm(x, weight))
    torch.testing.assert_close(theirs.gate(x), ours.gate(x))
    positions = torch.tensor([0, 1, 7, 100, 2000, 4095])
    qk = torch.randn(6, 8, 64)[:, :6]  # a part of qkv
    expected = ours.rotation(positions)(qk.clone())
    torch.testing.assert_close(theirs.rotation(positions)(qk), expected)
    expected_sums = ours.add_norm(x.clone(), change.clone(), weight)
    torch.testing.assert_close(theirs.add_norm(x, change, weight), expected_sums)


def sequence(**options: Any) -> Sequence:
    return Sequence("s", array("i", [5, 6, 7]), 3, sampling=Sampling(max_tokens=9, **options))


def test_only_draws_without_a_seed_are_the_devices(stand_in: Any) -> None:
    import numpy as np

    draws = leaf("operations_flashinfer").FlashInferDraws(CPU, seed=1)
    sampler = Sampler([], np.random.default_rng(0), unseeded=draws)
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    rows = [
        sequence(temperature=0.0),
        sequence(temperature=0.5, top_k=3),
        sequence(temperature=0.5, seed=1),
        sequence(temperature=0.5, top_p=0.8),
        sequence(temperature=0.5, min_p=0.1),
        sequence(temperature=0.5, top_p=1e-46),  # 0 in float32
    ]
    tokens = sampler.sample(logits.clone(), rows)
    assert stand_in.sampling.asked == [([3, 50], [1.0, 0.8])]
    for row in (0, 1, 3, 5):
        assert tokens[row] == logits[row].argmax()
    alone = Sampler([], np.random.default_rng(9)).sample(logits[2:3].clone(), rows[2:3])
    assert tokens[2:3] == alone
    sampler.sample(logits[:1].clone(), [sequence(temperature=2.0)])
    assert stand_in.sampling.asked[1:] == [("plain",)]
