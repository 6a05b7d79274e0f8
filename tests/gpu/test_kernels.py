"""FlashInfer's kernels against torch's, on one GPU."""

import random
from array import array
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.model_config import ModelConfig, read_config
from mserve.runtime.engine.models.operations import TorchOperations
from mserve.runtime.engine.moves import Moves, PageCopy
from mserve.runtime.engine.sampler import Sampler, truncated
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TINY = shipped_model()
CUDA = torch.device("cuda")
PAGE_SIZE = 16
NUM_PAGES = 512
TOLERANCE: dict[str, Any] = {"atol": 2e-2, "rtol": 2e-2}  # bfloat16 has 8 bits


def config_of(heads: int, kv_heads: int, head_dim: int, window: int | None = None) -> ModelConfig:
    return replace(
        read_config(TINY),
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        sliding_window=window,
    )


def pool_of(config: ModelConfig, **options: Any) -> KvPool:
    pool = KvPool(
        config,
        num_pages=NUM_PAGES,
        page_size=PAGE_SIZE,
        dtype=torch.bfloat16,
        device=CUDA,
        **options,
    )
    torch.manual_seed(0)
    pool.tensor.normal_()
    return pool


def make_sequence(length: int, free: list[int]) -> Sequence:
    pages = array("i", [free.pop() for _ in range(length // PAGE_SIZE + 1)])
    return Sequence("s", array("i", [7] * length), length, pages=pages)


def make_inputs(chunks: Items[tuple[int, int]], decodes: Items[int]) -> StepInputs:
    """Chunks [begin, end) and decodes of sequences with so many positions before, on any pages."""
    free = list(range(NUM_PAGES))
    random.Random(1).shuffle(free)
    prefill = tuple(
        Chunk(make_sequence(end, free), begin, end, sample=True) for begin, end in chunks
    )
    decode = []
    for length in decodes:
        sequence = make_sequence(length, free)
        sequence.tokens.append(7)
        sequence.num_computed = length
        decode.append(sequence)
    return StepInputs.of(Batch(prefill, tuple(decode)), PAGE_SIZE)


STEPS: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    "prompt": ([(0, 100)], []),
    "chunk": ([(64, 200)], []),
    "chunks": ([(0, 1), (37, 300), (0, 16)], []),
    "decode": ([], [300]),
    "decodes": ([], [1, 15, 16, 17, 300, 1000]),
    "mixed": ([(0, 50), (48, 100)], [5, 31, 32, 700]),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(32, 8, 128), (8, 8, 64), (4, 2, 64)])
def test_attention_equals_torchs(
    heads: int, kv_heads: int, head_dim: int, window: int | None, step: str
) -> None:
    from mserve.runtime.engine.attention import GatheredAttention
    from mserve.runtime.engine.attention_flashinfer import FlashInferAttention

    config = config_of(heads, kv_heads, head_dim, window)
    pool, inputs = pool_of(config), make_inputs(*STEPS[step])
    rows = len(inputs.token_ids)
    q = torch.randn(rows, heads, head_dim, dtype=torch.bfloat16, device=CUDA)
    k, v = (
        torch.randn(rows, kv_heads, head_dim, dtype=torch.bfloat16, device=CUDA) for _ in range(2)
    )
    pool.append(0, torch.from_numpy(inputs.slots).to(CUDA), k, v)
    expected = GatheredAttention(pool, window).plan(inputs).attend(0, q, k, v)
    found = FlashInferAttention(pool, config).plan(inputs).attend(0, q, k, v)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(32, 8, 128), (4, 2, 64)])
@pytest.mark.parametrize("lengths", [[300], [5, 31, 32, 700], [900] * 16])
def test_decodes_in_fixed_buffers_equal_torchs(
    heads: int, kv_heads: int, head_dim: int, lengths: list[int]
) -> None:
    """Planned for other lengths before: what a graph has recorded stays as it was."""
    from mserve.runtime.engine.attention import GatheredAttention
    from mserve.runtime.engine.attention_flashinfer import FlashInferAttention

    config = config_of(heads, kv_heads, head_dim)
    pool = pool_of(config)
    fixed = FlashInferAttention(pool, config).fixed(len(lengths), 16)
    q = torch.randn(len(lengths), heads, head_dim, dtype=torch.bfloat16, device=CUDA)
    fixed.plan(make_inputs([], [1] * len(lengths))).attend(0, q, q, q)
    inputs = make_inputs([], lengths)
    expected = GatheredAttention(pool).plan(inputs).attend(0, q, q, q)
    found = fixed.plan(inputs).attend(0, q, q, q)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(32, 8, 128), (4, 2, 64)])
def test_operations_equal_torchs(heads: int, kv_heads: int, head_dim: int) -> None:
    from mserve.runtime.engine.operations_flashinfer import FlashInferOperations

    config = config_of(heads, kv_heads, head_dim)
    like = torch.empty(0, dtype=torch.bfloat16, device=CUDA)
    ours, theirs = TorchOperations(config, like), FlashInferOperations(config, like)
    torch.manual_seed(0)

    def random_tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.bfloat16, device=CUDA)

    x, change, weight = random_tensor(33, 256), random_tensor(33, 256), random_tensor(256)
    torch.testing.assert_close(theirs.norm(x, weight), ours.norm(x, weight), **TOLERANCE)
    torch.testing.assert_close(theirs.gate(x), ours.gate(x), **TOLERANCE)
    expected = ours.add_norm(x.clone(), change.clone(), weight)
    for found, wanted in zip(theirs.add_norm(x, change, weight), expected, strict=True):
        torch.testing.assert_close(found, wanted, **TOLERANCE)
    qkv = random_tensor(33, heads + 2 * kv_heads, head_dim)
    qk, per_head = qkv[:, : heads + kv_heads], random_tensor(head_dim)
    normed = theirs.norm(qk[:, :heads], per_head)
    torch.testing.assert_close(normed, ours.norm(qk[:, :heads], per_head), **TOLERANCE)
    positions = torch.arange(33, device=CUDA) * 100
    expected_qk = TorchOperations(config, like.float()).rotation(positions)(qk.float())
    torch.testing.assert_close(theirs.rotation(positions)(qk).float(), expected_qk, **TOLERANCE)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.8}, {"temperature": 0.5}]
)
def test_draws_follow_the_distribution(options: dict[str, Any]) -> None:
    from mserve.runtime.engine.operations_flashinfer import FlashInferDraws

    count = 20_000
    sampling = Sampling(max_tokens=1, **{"temperature": 1.0, **options})
    logits = torch.tensor([0.02, 0.4, 0.0, 0.25, 0.18, 0.1, 0.05, 0.0]).log()
    probabilities = (logits.double() / sampling.temperature).softmax(-1)[None]
    expected = truncated(probabilities, [sampling])[0]
    sequence = Sequence("s", array("i", [5]), 1, sampling=sampling)
    sampler = Sampler([], np.random.default_rng(0), unseeded=FlashInferDraws(CUDA, 1))
    tokens = sampler.sample(logits.to(CUDA).repeat(count, 1), [sequence] * count)
    shares = torch.bincount(torch.tensor(tokens), minlength=8) / count
    torch.testing.assert_close(shares.double(), expected / expected.sum(), atol=0.015, rtol=0)


def test_draws_with_a_seed_are_the_cpus() -> None:
    logits = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(max_tokens=1, temperature=0.8, top_p=0.9, seed=11)
    sequences = [Sequence("s", array("i", [5] * n), 1, sampling=sampling) for n in range(1, 9)]
    tokens = [
        Sampler([], np.random.default_rng(0)).sample(logits.to(device), sequences)
        for device in ("cpu", "cuda")
    ]
    assert tokens[0] == tokens[1]


def test_kv_is_read_written_copied_saved_and_restored() -> None:
    """The pool's ways through a device's memory, host pages included."""
    config = config_of(4, 2, 64)
    pool = pool_of(config, host_pages=4)
    pages = array("i", [9, 3, 77])
    size = 40 * pool.bytes_per_token_layer

    def read(which: array[int]) -> bytes:
        out = bytearray(size)
        pool.read(which, 0, 3, 43, memoryview(out))
        return bytes(out)

    kv = read(pages)
    others = array("i", [100, 101, 102])
    pool.write(others, 0, 3, 43, memoryview(kv))
    assert read(others) == kv
    pool.move(Moves(saves=((9, 0), (3, 2), (77, 1))))
    pool.tensor[:, :, pages.tolist()] = 0
    pool.move(Moves(restores=((0, 200), (2, 201), (1, 202))))
    assert read(array("i", [200, 201, 202])) == kv
    copies = tuple(PageCopy(source, 300 + i, PAGE_SIZE) for i, source in enumerate(others))
    pool.move(Moves(copies=copies))
    assert read(array("i", [300, 301, 302])) == kv
