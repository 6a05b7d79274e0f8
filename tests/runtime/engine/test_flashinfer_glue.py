"""What is handed to FlashInfer, on a stand-in that computes the same with torch and checks what its
documentation asks for. Its kernels themselves are compared on a GPU (tests/gpu)."""

import importlib
import random
import sys
from array import array
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from mserve.runtime.engine.attention import GatheredAttention
from mserve.runtime.engine.backend import choose_backend
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.decode_graphs import DecodeGraphs
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.model_config import ModelConfig, read_config
from mserve.runtime.engine.models.llama import Llama, LlamaWeights
from mserve.runtime.engine.models.operations import TorchOperations
from mserve.runtime.engine.rope import YarnScaling
from mserve.runtime.engine.runner import TorchRunner, load_runner
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.engine.weights import DummyWeights
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Sampling

TINY = Path(str(files("mserve") / "model"))
CPU = torch.device("cpu")
LEAVES = ("attention_flashinfer", "operations_flashinfer")
PAGE_SIZE = 16


class PagedAttention:
    """Queries over pages, from a plan: what both wrappers have in common."""

    def __init__(self, workspace: torch.Tensor, layout: str = "NHD", **options: Any) -> None:
        assert layout == "NHD"
        assert workspace.dtype == torch.uint8
        assert not workspace.any(), "it must be zero when first used"
        self.options = options
        self.tables: list[torch.Tensor] = []

    def remember(
        self,
        query_offsets: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        page_size: int,
        window_left: int,
    ) -> None:
        for table in (query_offsets, offsets, pages, last_lengths):
            assert table.dtype == torch.int32
        self.tables = [query_offsets, offsets, pages, last_lengths]
        self.page_size, self.window_left = page_size, window_left

    def run(
        self, q: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor], causal: bool = True
    ) -> torch.Tensor:
        assert q.is_contiguous()
        query_offsets, offsets, pages, last_lengths = self.tables
        parts = []
        for index, last in enumerate(last_lengths.tolist()):
            mine = pages[offsets[index] : offsets[index + 1]].long()
            length = (len(mine) - 1) * self.page_size + last
            keys, values = (part[mine].flatten(0, 1)[:length].transpose(0, 1) for part in kv)
            queries = q[query_offsets[index] : query_offsets[index + 1]].transpose(0, 1)
            mask = self._mask(queries.shape[1], length)
            out = functional.scaled_dot_product_attention(
                queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
            )
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    def _mask(self, rows: int, length: int) -> torch.Tensor:
        places = torch.arange(length - rows, length)[:, None] - torch.arange(length)
        seen = places >= 0
        return seen if self.window_left < 0 else seen & (places <= self.window_left)


class PrefillWrapper(PagedAttention):
    def plan(
        self,
        query_offsets: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        causal: bool,
        window_left: int,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        assert causal
        assert num_heads % num_kv_heads == 0
        self.remember(query_offsets, offsets, pages, last_lengths, page_size, window_left)


class DecodeWrapper(PagedAttention):
    def plan(
        self,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        window_left: int,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        queries = torch.arange(len(offsets), dtype=torch.int32)
        self.remember(queries, offsets, pages, last_lengths, page_size, window_left)


class GraphDecodeWrapper(DecodeWrapper):
    """Reads its own buffers, wherever a plan came from; its batch size never changes."""

    def __init__(
        self,
        workspace: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        layout: str = "NHD",
        *,
        use_tensor_cores: bool,
    ) -> None:
        super().__init__(workspace, layout)
        assert len(offsets) == len(last_lengths) + 1
        self.buffers = (offsets, pages, last_lengths)

    def remember(
        self,
        query_offsets: torch.Tensor,
        offsets: torch.Tensor,
        pages: torch.Tensor,
        last_lengths: torch.Tensor,
        page_size: int,
        window_left: int,
    ) -> None:
        assert len(last_lengths) == len(self.buffers[2]), "the batch size is fixed"
        assert len(pages) <= len(self.buffers[1]), "the pages' buffer is too small"
        for buffer, values in zip(self.buffers, (offsets, pages, last_lengths), strict=True):
            buffer[: len(values)] = values
        super().remember(query_offsets, *self.buffers, page_size, window_left)


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    assert x.dim() in (2, 3)
    return functional.rms_norm(x, weight.shape, weight, eps)


def fused_add_rmsnorm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> None:
    residual += x
    x.copy_(rmsnorm(residual, weight, eps))


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return functional.silu(x[..., :half]) * x[..., half:]


def apply_rope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin: torch.Tensor,
    is_neox: bool,
) -> None:
    assert is_neox
    assert cos_sin.dtype == torch.float32
    assert cos_sin.is_contiguous()
    cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)
    for x in (query, key):
        x = x.view(len(x), -1, head_size)  # as it does: without a copy
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        x.copy_(turned)


class Draws:
    """Keeps what it was asked, and takes the most probable."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def sampling_from_probs(self, probs: torch.Tensor, generator: Any) -> torch.Tensor:
        self.asked.append(("plain",))
        return self._most(probs)

    def top_k_top_p_sampling_from_probs(
        self,
        probs: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        filter_apply_order: str,
        generator: Any,
    ) -> torch.Tensor:
        assert filter_apply_order == "top_k_first"
        assert (top_k.dtype, top_p.dtype) == (torch.int32, torch.float32)
        self.asked.append((top_k.tolist(), [round(p, 3) for p in top_p.tolist()]))
        return self._most(probs)

    def _most(self, probs: torch.Tensor) -> torch.Tensor:
        assert probs.dtype == torch.float32
        assert torch.allclose(probs.sum(-1), torch.ones(len(probs)))
        return probs.argmax(-1).int()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`flashinfer`, as the leaves import it."""
    module: Any = ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = PrefillWrapper
    module.BatchDecodeWithPagedKVCacheWrapper = DecodeWrapper
    module.CUDAGraphBatchDecodeWithPagedKVCacheWrapper = GraphDecodeWrapper
    module.rmsnorm = rmsnorm
    module.fused_add_rmsnorm = fused_add_rmsnorm
    module.silu_and_mul = silu_and_mul
    module.apply_rope_with_cos_sin_cache_inplace = apply_rope
    module.sampling = Draws()
    names = [f"mserve.runtime.engine.{leaf}" for leaf in LEAVES]
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield module
    for name in names:
        sys.modules.pop(name, None)


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


def generate(runner: TorchRunner, chunk_tokens: int) -> list[list[int]]:
    """Prompts of several lengths; the first ones decode while the others are still computed."""
    rng = random.Random(5)
    free = list(range(96))
    rng.shuffle(free)
    sequences = []
    for index, length in enumerate((1, 15, 16, 17, 90)):
        tokens = array("i", [rng.randrange(5, 2000) for _ in range(length)])
        pages = array("i", [free.pop() for _ in range(length // PAGE_SIZE + 3)])
        greedy = Sampling(max_tokens=64, temperature=0.0)
        sequences.append(
            Sequence(
                f"s{index}",
                tokens,
                length,
                generate_step="generate",
                sampling=greedy,
                pages=pages,
            )
        )
    while any(sequence.num_output < 12 for sequence in sequences):
        unfinished = [s for s in sequences if s.num_output < 12]
        chunks = tuple(
            Chunk(s, s.num_computed, end, sample=end == s.num_prompt)
            for s in [s for s in unfinished if not s.is_decoding][:2]
            for end in [min(s.num_prompt, s.num_computed + chunk_tokens)]
        )
        batch = Batch(chunks, tuple(s for s in unfinished if s.is_decoding))
        tokens_drawn = runner.run(batch).tokens
        assert tokens_drawn is not None
        for chunk in chunks:
            chunk.sequence.num_computed = chunk.end
        for sequence in batch.decode:
            sequence.num_computed += 1
        for sequence, token in zip(batch.sampled, tokens_drawn, strict=True):
            sequence.tokens.append(token)
    return [list(s.tokens[s.num_prompt :]) for s in sequences]


VARIANTS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "window": {"sliding_window": 24},
    "qwen3": {"qk_norm": True},
    "yarn": {"rope_scaling": YarnScaling(4.0, 64, 32.0, 1.0, None, True)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_answers_are_those_of_torch_alone(stand_in: Any, name: str) -> None:
    plain = load_plain(**VARIANTS[name])
    expected = generate(plain, chunk_tokens=40)
    assert len({token for answer in expected for token in answer}) > 4
    assert generate(runner_with(stand_in, plain, most=4), chunk_tokens=40) == expected


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


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "message"),
    [
        ("cpu", torch.bfloat16, 64, "needs a CUDA device"),
        ("cuda", torch.float32, 64, "needs bfloat16 or float16"),
        ("cuda", torch.bfloat16, 96, "needs heads of 64, 128, 256, not 96"),
    ],
)
def test_what_flashinfer_cannot_do_is_gathered(
    device: str, dtype: torch.dtype, head_dim: int, message: str
) -> None:
    config = replace(read_config(TINY), head_dim=head_dim)
    backend = choose_backend(None, config, torch.device(device), dtype)
    assert not backend.has_flashinfer
    with pytest.raises(ConfigError, match=message):
        choose_backend("flashinfer", config, torch.device(device), dtype)


def test_what_it_can_do_is_its_own(stand_in: Any) -> None:
    config = read_config(TINY)
    assert choose_backend(None, config, torch.device("cuda"), torch.bfloat16).has_flashinfer
    gathered = choose_backend("gathered", config, torch.device("cuda"), torch.bfloat16)
    assert not gathered.has_flashinfer


def test_a_missing_flashinfer_is_a_sentence(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(ConfigError, match=r"mserve needs FlashInfer, the extra mserve\[cu12\]"):
        choose_backend(None, read_config(TINY), torch.device("cuda"), torch.bfloat16)
