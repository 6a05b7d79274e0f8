"""KV read from one pool and written to another is the same, whatever the page sizes."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.runtime.engine import kv_pool
from mserve.runtime.engine.batching import StepOutOfMemory
from mserve.runtime.engine.kv_pool import KvPool
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.moves import MoveFailure, Moves, PageCopy

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=8,
    hidden_size=8,
    intermediate_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    max_positions=64,
    norm_epsilon=1e-5,
    rope_theta=10000.0,
    rope_scaling=None,
    sliding_window=None,
    tie_embeddings=True,
    qkv_bias=False,
    qk_norm=False,
    eos_ids=(0,),
)
LENGTH = 40


def make_pool(page_size: int, dtype: torch.dtype = torch.float32, host_pages: int = 0) -> KvPool:
    return KvPool(
        CONFIG,
        num_pages=64,
        page_size=page_size,
        dtype=dtype,
        device=torch.device("cpu"),
        host_pages=host_pages,
    )


def scattered_pages(page_size: int) -> array[int]:
    pages = random.Random(page_size).sample(range(64), -(-LENGTH // page_size))
    return array("i", pages)


def fill(pool: KvPool, pages: array[int]) -> torch.Tensor:
    """Writes random KV as the model does; returns it as [layers, 2, LENGTH, kv_heads, head_dim]."""
    kv = torch.randn(2, 2, LENGTH, 2, 4, generator=torch.Generator().manual_seed(3))
    kv = kv.to(pool.tensor.dtype)
    size = pool.page_size
    slots = torch.tensor([pages[i // size] * size + i % size for i in range(LENGTH)])
    for layer in range(2):
        pool.append(layer, slots, kv[layer, 0], kv[layer, 1])
    return kv


def read(pool: KvPool, pages: array[int], layer: int, begin: int, end: int) -> bytes:
    out = bytearray((end - begin) * pool.bytes_per_token_layer)
    pool.read(pages, layer, begin, end, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    ends=st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)),
    layer=st.integers(0, 1),
)
def test_a_range_travels_between_pools_of_different_page_sizes(
    dtype: torch.dtype, sizes: tuple[int, int], ends: tuple[int, int], layer: int
) -> None:
    begin, end = sorted(ends)
    source, target = (make_pool(size, dtype) for size in sizes)
    source_pages, target_pages = (scattered_pages(size) for size in sizes)
    kv = fill(source, source_pages)
    message = read(source, source_pages, layer, begin, end)
    expected = kv[layer, :, begin:end].contiguous().view(torch.uint8).numpy().tobytes()
    assert message == expected, "the wire form is [2, tokens, kv_heads, head_dim]"
    target.write(target_pages, layer, begin, end, memoryview(message))
    assert read(target, target_pages, layer, begin, end) == message
    written = int((target.tensor.flatten(4).abs().sum(-1) > 0).sum())
    assert written == 2 * (end - begin), "nothing else is touched"


def test_gathered_pages_are_in_order_of_position() -> None:
    pool = make_pool(page_size=8)
    pages = scattered_pages(8)
    kv = fill(pool, pages)
    gathered = pool.gather(1, torch.tensor(pages), sequences=1)
    assert torch.equal(gathered[:, 0], kv[1])
    two = pool.gather(1, torch.tensor([*pages[:2], *pages[2:4]]), sequences=2)
    assert torch.equal(two, kv[1, :, :32].unflatten(1, (2, 16)))


def test_sizes_of_the_pool() -> None:
    pool = make_pool(page_size=8, dtype=torch.bfloat16)
    assert pool.bytes_per_token_layer == 2 * 2 * 4 * 2
    assert pool.tensor.shape == (2, 2, 64, 8, 2, 4)
    keys, values = pool.keys_values(1)
    assert keys.shape == values.shape == (64, 8, 2, 4)


def test_a_copy_takes_the_first_positions_of_every_layer_and_no_more() -> None:
    pool = make_pool(page_size=8)
    pages = scattered_pages(8)
    kv = fill(pool, pages)
    target = array("i", [next(page for page in range(64) if page not in pages)])
    before = pool.tensor.clone()
    pool.move(Moves(copies=(PageCopy(pages[2], target[0], 3),)))
    for layer in range(2):
        expected = kv[layer, :, 16:19].contiguous().view(torch.uint8).numpy().tobytes()
        assert read(pool, target, layer, 0, 3) == expected
    before[:, :, target[0], :3] = pool.tensor[:, :, target[0], :3]
    assert torch.equal(pool.tensor, before), "nothing else is touched"


@pytest.mark.parametrize("slice_bytes", [1, 4096, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_go_to_host_memory_and_come_back(
    dtype: torch.dtype, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_pool, "SLICE_BYTES", slice_bytes)
    pool = make_pool(page_size=8, dtype=dtype, host_pages=4)
    pages = scattered_pages(8)
    fill(pool, pages)
    before = pool.tensor.clone()
    pool.move(Moves(saves=((pages[3], 2), (pages[1], 0))))
    pool.tensor[:, :, [pages[1], pages[3]]] = 7
    pool.move(Moves(restores=((0, pages[1]), (2, pages[3]))))
    assert torch.equal(pool.tensor, before)


def test_a_failed_move_is_no_fault_of_a_request() -> None:
    pool = make_pool(page_size=8)
    with pytest.raises(MoveFailure):
        pool.move(Moves(saves=((0, 5),)))


def test_moves_of_one_batch_are_in_order() -> None:
    """A page is saved before it is overwritten, and copied from after it is restored."""
    pool = make_pool(page_size=8, host_pages=2)
    pages = scattered_pages(8)
    fill(pool, pages)
    first, second, third = (pool.tensor[:, :, page].clone() for page in pages[:3])
    pool.move(Moves(saves=((pages[0], 0),)))
    moves = Moves(
        saves=((pages[1], 1),),
        restores=((0, pages[1]), (1, pages[0])),
        copies=(PageCopy(pages[1], pages[2], 5),),
    )
    pool.move(moves)
    assert torch.equal(pool.tensor[:, :, pages[1]], first)
    assert torch.equal(pool.tensor[:, :, pages[0]], second)
    assert torch.equal(pool.tensor[:, :, pages[2], :5], first[:, :, :5])
    assert torch.equal(pool.tensor[:, :, pages[2], 5:], third[:, :, 5:])


class FullDevice:
    """The bytes of a pool whose device has no memory left to gather any."""

    device = torch.device("meta")
    shape = (2, 2, 64, 32)

    def __getitem__(self, key: int | tuple[object, ...]) -> FullDevice:
        if isinstance(key, int):
            return self
        raise torch.OutOfMemoryError("none left\nmuch advice")


def test_memory_that_runs_out_while_kv_is_read_is_said_so() -> None:
    pool = make_pool(8)
    bytes_: Any = FullDevice()
    pool._bytes = bytes_
    out = memoryview(bytearray(8 * pool.bytes_per_token_layer))
    with pytest.raises(StepOutOfMemory, match=r"^none left$"):
        pool.read(array("i", [3]), 0, 0, 8, out)
