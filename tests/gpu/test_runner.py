"""The runner on one GPU: against transformers, recorded against launched, and its memory."""

import importlib
import os
import random
from array import array
from collections.abc import Sequence as Items
from functools import cache
from typing import Any

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.batching import Batch, Chunk, StepOutOfMemory, unknown
from mserve.runtime.engine.inputs import StepInputs
from mserve.runtime.engine.launches import TorchStep
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.memory import largest_batch
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TINY = shipped_model()
NUM_TOKENS = 64
LENGTHS = [1, 2, 15, 16, 17, 100, 400, 1000]


@cache
def reference(dtype: torch.dtype) -> Any:
    """The shipped model in transformers."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers: Any = importlib.import_module("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).to("cuda")


@cache
def runner_of(dtype: str, graphs: bool = True) -> TorchRunner:
    return load_runner(
        TINY, device="cuda", dtype=dtype, num_pages=1024, max_running=32, graphs=graphs
    )


def prompt(length: int) -> list[int]:
    rng = random.Random(length)
    return [rng.randrange(5, 2048) for _ in range(length)]


def make_sequences(prompts: Items[list[int]]) -> list[Sequence]:
    free = list(range(1024))
    random.Random(7).shuffle(free)
    sequences = []
    for index, tokens in enumerate(prompts):
        pages = array("i", [free.pop() for _ in range((len(tokens) + NUM_TOKENS) // 16 + 1)])
        sequences.append(
            Sequence(
                f"s{index}",
                array("i", tokens),
                len(tokens),
                generate_step="generate",
                sampling=Sampling(max_tokens=NUM_TOKENS, temperature=0.0),
                pages=pages,
            )
        )
    return sequences


def prefill(runner: TorchRunner, sequences: Items[Sequence], chunk_tokens: int = 300) -> None:
    for sequence in sequences:
        while sequence.num_computed < sequence.num_prompt:
            end = min(sequence.num_prompt, sequence.num_computed + chunk_tokens)
            is_last = end == sequence.num_prompt
            chunk = Chunk(sequence, sequence.num_computed, end, sample=is_last)
            drawn = runner.run(Batch((chunk,), ())).tokens
            sequence.num_computed = end
            sequence.tokens.extend(drawn or [])


def decode(runner: TorchRunner, sequences: Items[Sequence], steps: int) -> None:
    for _ in range(steps):
        drawn = runner.run(Batch((), tuple(sequences))).tokens
        assert drawn is not None
        for sequence, token in zip(sequences, drawn, strict=True):
            sequence.num_computed += 1
            sequence.tokens.append(token)


def decode_ahead(runner: TorchRunner, sequences: Items[Sequence], steps: int) -> None:
    """The same; every step is launched before the tokens of the one before are read."""
    before: TorchStep | None = None
    for _ in range(steps):
        step = runner.launch(Batch((), tuple(sequences)), before)
        if before is not None:
            fill_in(sequences, before)
        for row, sequence in enumerate(sequences):
            sequence.num_computed += 1
            sequence.tokens.append(unknown(row))
        before = step
    if before is not None:
        fill_in(sequences, before)


def fill_in(sequences: Items[Sequence], step: TorchStep) -> None:
    drawn = step.result().tokens
    assert drawn is not None
    for sequence, token in zip(sequences, drawn, strict=True):
        sequence.tokens[-1] = token


def test_greedy_tokens_equal_transformers_in_float32() -> None:
    runner, model = runner_of("float32"), reference(torch.float32)
    sequences = make_sequences([prompt(length) for length in LENGTHS])
    prefill(runner, sequences)
    decode(runner, sequences, NUM_TOKENS - 1)
    for sequence in sequences:
        ids = torch.tensor([list(sequence.tokens[: sequence.num_prompt])], device="cuda")
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
        assert list(sequence.tokens) == out[0].tolist(), f"{sequence.num_prompt} tokens"


@pytest.mark.parametrize("length", [17, 400])
def test_bfloat16_is_as_exact_as_transformers(length: int) -> None:
    """The error against float32 is that of its numbers: transformers has it too."""
    ids = torch.tensor([prompt(length)], device="cuda")
    with torch.inference_mode():
        exact = reference(torch.float32)(ids).logits[0].float()
        theirs = reference(torch.bfloat16)(ids).logits[0].float()
        ours = prompt_logits(runner_of("bfloat16"), prompt(length)).float()
    ours_off, theirs_off = ((logits - exact).pow(2).mean().sqrt() for logits in (ours, theirs))
    assert ours_off < 1.3 * theirs_off + 1e-3, (ours_off, theirs_off)


def prompt_logits(runner: TorchRunner, tokens: list[int]) -> torch.Tensor:
    """[tokens, vocab]"""
    (sequence,) = make_sequences([tokens])
    batch = Batch((Chunk(sequence, 0, len(tokens), sample=True),), ())
    return runner.model.logits(runner.forward(StepInputs.of(batch, 16), None))


@pytest.mark.parametrize("count", [1, 3, 16, 17, 32])
def test_recorded_steps_equal_launched_ones(count: int) -> None:
    """Logits of the same step on the same KV; plans may split the work in other places."""
    runner = runner_of("bfloat16")
    assert runner.graphs is not None
    sequences = make_sequences([prompt(5 + 23 * index) for index in range(count)])
    prefill(runner, sequences)
    decode(runner, sequences, 3)
    inputs = StepInputs.of(Batch((), tuple(sequences)), 16)
    with torch.inference_mode():
        replay = runner.graphs.prepare(inputs)
        assert replay is not None
        recorded = replay().float().clone()
        launched = runner.model.logits(runner.forward(inputs, None)).float()
    torch.testing.assert_close(recorded, launched, atol=0.1, rtol=0.02)
    off = (recorded - launched).pow(2).mean().sqrt()
    assert off < 0.02 * launched.std(), off


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", [1, 7, 32])
def test_steps_that_nobody_waits_for_answer_alike(count: int, graphs: bool) -> None:
    """They take their tokens from the device; what goes up for one disturbs none before it."""
    runner = runner_of("bfloat16", graphs)
    prompts = [prompt(5 + 23 * index) for index in range(count)]
    plain, ahead = make_sequences(prompts), make_sequences(prompts)
    prefill(runner, plain)
    decode(runner, plain, NUM_TOKENS - 1)
    prefill(runner, ahead)
    decode_ahead(runner, ahead, NUM_TOKENS - 1)
    assert [list(s.tokens) for s in ahead] == [list(s.tokens) for s in plain]


def test_answers_do_not_depend_on_what_ran_before() -> None:
    """Buffers of a larger batch leave nothing behind for a smaller one."""
    runner = runner_of("bfloat16")

    def answers(lengths: list[int]) -> list[list[int]]:
        sequences = make_sequences([prompt(length) for length in lengths])
        prefill(runner, sequences)
        decode(runner, sequences, 8)
        return [list(sequence.tokens) for sequence in sequences]

    few = answers([40, 50])
    answers(list(range(10, 42)))
    assert answers([40, 50]) == few


def test_memory_is_planned_so_that_the_largest_batch_fits() -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    runner = load_runner(
        "llama-3.2-1b",
        load="dummy",
        device="cuda",
        dtype="bfloat16",
        gpu_memory_share=0.8,
        max_batch_tokens=4096,
        max_running=128,
    )
    assert 0.4 * free < runner.pool.tensor.nbytes < 0.8 * free
    batch = largest_batch(4096, 128, runner.config.max_positions, 16)
    drawn = runner.run(batch).tokens
    assert drawn is not None
    assert len(drawn) == 128
    assert total - torch.cuda.mem_get_info()[0] < total


def test_memory_that_runs_out_is_the_steps_error_and_comes_back() -> None:
    runner = runner_of("bfloat16", graphs=False)
    batch = largest_batch(4000, 32, 4096, 16)
    runner.run(batch)
    torch.cuda.empty_cache()
    filler = torch.empty(
        torch.cuda.mem_get_info()[0] - (24 << 20), dtype=torch.uint8, device="cuda"
    )
    with pytest.raises(StepOutOfMemory):
        runner.run(batch)
    del filler
    assert runner.run(batch).tokens is not None
