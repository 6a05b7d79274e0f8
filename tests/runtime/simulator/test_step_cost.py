"""Steps take as long as measured ones did, and as the roofline says."""

from array import array
from itertools import pairwise

import pytest

from mserve.runtime.engine.batching import Batch, Chunk, StepCost
from mserve.runtime.engine.moves import Moves
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Sampling
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.step_cost import HardwareCost, Work

HARDWARE = load_hardware()


def llama_8b(splits_kv: bool = True) -> HardwareCost:
    return HardwareCost.named(HARDWARE, "h200", "llama-3.1-8b", splits_kv=splits_kv)


def llama_70b() -> HardwareCost:
    return HardwareCost.named(HARDWARE, "h100", "llama-3.1-70b", weights="fp8", tensor_parallel=4)


def sequence(num_computed: int) -> Sequence:
    tokens = array("i", bytes(4 * (num_computed + 1)))
    made = Sequence(
        key=str(num_computed),
        tokens=tokens,
        num_prompt=len(tokens),
        sampling=Sampling(max_tokens=9),
    )
    made.num_computed = num_computed
    return made


# --- anchors ------------------------------------------------------------------------------------


def test_prefill_of_a_70b_model_takes_as_long_as_published() -> None:
    assert 0.16 < llama_70b().prefill_time(3000) < 1 / 5.6


def test_decode_of_a_70b_model_takes_as_long_as_published() -> None:
    for num_running in (1, 4, 8, 12):
        assert 0.014 < llama_70b().decode_time([3050] * num_running) < 0.016


def test_decode_of_an_8b_model_reaches_85_percent_of_the_memory_bandwidth() -> None:
    assert llama_8b().decode_time([128]) == pytest.approx(16e9 / 4.8e12 / 0.85, rel=0.03)


def test_kv_of_a_token() -> None:
    assert llama_8b().kv_bytes_per_token == 131_072
    assert llama_70b().kv_bytes_per_token == 327_680


# --- the roofline -------------------------------------------------------------------------------


def test_few_tokens_cost_the_weights_and_many_cost_compute() -> None:
    cost = llama_8b()
    few, twice, many = (cost.prefill_time(n) for n in (32, 64, 8192))
    assert few == pytest.approx(twice, rel=0.03)
    flops = 2 * 8192 * cost.model.num_layers * cost.model.layer_weights
    assert 0.45 < flops / many / (cost.gpu.bf16_tflops * 1e12) < 0.65


def test_a_mixed_step_reads_the_weights_once() -> None:
    cost = llama_8b()
    together = cost.work_time(Work([(64, 0)], 8, 8 * 1000, 1000))[0]
    apart = cost.prefill_time(64) + cost.decode_time([1000] * 8)
    assert together < 0.6 * apart


def test_attention_of_prefill_is_quadratic_and_sees_the_prefix() -> None:
    cost = llama_8b()
    times = [cost.prefill_time(4096, before) for before in (0, 50_000, 100_000)]
    (first, second) = (after - before for before, after in pairwise(times))
    assert (
        first
        == pytest.approx(second)
        == pytest.approx(4096 * 50_000 * 4 * 32 * 4096 / (989.4e12 * 0.4))
    )


def test_chunks_cost_their_overhead() -> None:
    cost = llama_8b()
    whole, chunked = cost.prefill_time(8192), cost.prefill_time(8192, 0, chunk_tokens=512)
    assert whole < chunked < 1.2 * whole
    assert cost.prefill_time(0) == 0


def test_steps_are_affine_in_their_number() -> None:
    for splits_kv in (True, False):
        cost = llama_8b(splits_kv=splits_kv)
        contexts = [100, 2000, 31_000]
        work = Work((), 3, sum(contexts), max(contexts))
        first_s, slope_s = cost.work_time(work)
        for steps in (1, 7, 500):
            later = cost.decode_time(context + steps for context in contexts)
            assert later == pytest.approx(first_s + steps * slope_s, rel=1e-12)


def test_unequal_lengths_cost_where_kernels_do_not_split_kv() -> None:
    """f = 1 + 0.7 (G / (B H)) (longest / mean), for 132 multiprocessors and 8 KV heads."""
    plain, split = llama_8b(splits_kv=False), llama_8b()
    contexts = [100] * 63 + [32_000]
    mean = sum(contexts) / 64
    factor = 1 + 0.7 * 132 / (64 * 8) * 32_000 / mean
    bytes_s = sum(contexts) * plain.kv_bytes_per_token / (4.8e12 * 0.88)
    idle_s = plain.work_time(Work((), 64))[0]
    assert plain.decode_time(contexts) - idle_s == pytest.approx(factor * bytes_s)
    assert split.decode_time(contexts) - idle_s == pytest.approx(1.1 * bytes_s)


def test_fp8_helps_decode_everywhere_and_prefill_where_there_are_units_for_it() -> None:
    for gpu, prefill_gain in (("l40s", True), ("a6000", False)):
        bf16 = HardwareCost.named(HARDWARE, gpu, "qwen3-8b")
        fp8 = HardwareCost.named(HARDWARE, gpu, "qwen3-8b", weights="fp8")
        assert fp8.decode_time([100]) < 0.7 * bf16.decode_time([100])
        if not prefill_gain:
            assert fp8.prefill_time(4096) > bf16.prefill_time(4096)


def test_tensor_parallelism_helps_less_than_it_takes() -> None:
    alone = HardwareCost.named(HARDWARE, "h100", "qwen3-32b")
    four = HardwareCost.named(HARDWARE, "h100", "qwen3-32b", tensor_parallel=4)
    assert 1.3 < alone.prefill_time(4096) / four.prefill_time(4096) < 4
    assert 1.3 < alone.decode_time([1000]) / four.decode_time([1000]) < 4
    assert four.usd_per_s == 4 * alone.usd_per_s


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_is_priced_by_what_it_computes() -> None:
    cost: StepCost = llama_8b()
    prompt, running = sequence(2000), [sequence(100), sequence(700)]
    batch = Batch((Chunk(prompt, 512, 1024, sample=False),), tuple(running))
    expected = llama_8b().work_time(Work([(512, 512)], 2, 802, 701))
    assert cost.step_time(batch) == expected


def test_moves_to_the_host_take_time_and_may_be_all() -> None:
    cost = llama_8b()
    batch = Batch((), (), moves=Moves(saves=((1, 2), (3, 4)), restores=((5, 6),)))
    assert cost.step_time(batch) == pytest.approx((3 * 16 * 131_072 / (64e9 * 0.75), 0))


# --- memory and links ---------------------------------------------------------------------------


def test_kv_gets_what_weights_leave() -> None:
    tokens = llama_8b().num_kv_tokens(0.9)
    assert tokens == pytest.approx((0.9 * 141e9 - 16.06e9) / 131_072, rel=1e-3)
    with pytest.raises(ConfigError, match=r"weights take 141 GB of each GPU.*no room for KV"):
        HardwareCost.named(HARDWARE, "h100", "llama-3.1-70b").num_kv_tokens()


def test_every_gpu_of_a_worker_sends_its_part() -> None:
    assert llama_8b().transfer_time(1000) == pytest.approx(50e-6 + 131.072e6 / (50e9 * 0.75))
    assert llama_70b().transfer_time(1000) == pytest.approx(50e-6 + 327.68e6 / (200e9 * 0.75))
    assert llama_8b().transfer_time(1000, "peer") < 0.2 * llama_8b().transfer_time(1000)
    assert llama_8b().transfer_time(0) == 0


def test_heads_must_share_out() -> None:
    with pytest.raises(ConfigError, match="32 attention heads cannot be shared out over 3 GPUs"):
        HardwareCost.named(HARDWARE, "h200", "llama-3.1-8b", tensor_parallel=3)


# --- profiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [llama_8b(), llama_70b()], ids=["8b", "70b"])
@pytest.mark.parametrize("chunk_tokens", [None, 2048])
def test_a_profile_predicts_what_steps_take(cost: HardwareCost, chunk_tokens: int | None) -> None:
    profile = cost.profile(chunk_tokens=chunk_tokens)
    for num_tokens in (500, 3000, 20_000):
        for num_before in (0, 8000):
            expected = cost.prefill_time(num_tokens, num_before, chunk_tokens)
            assert profile.prefill_time(num_tokens, num_before) == pytest.approx(expected, rel=0.1)
    for num_running in (1, 20):
        expected = 10 * cost.decode_time([2048] * num_running)
        assert profile.decode_time(10, num_running) == pytest.approx(expected)
    assert profile.transfer_time(3000) == pytest.approx(cost.transfer_time(3000))
