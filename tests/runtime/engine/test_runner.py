"""The runner gives the tokens that Hugging Face's transformers gives, however the work is cut."""

import importlib
import os
import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Sampling

PAGE_SIZE = 16
NUM_PAGES = 1024
NUM_TOKENS = 64
TINY = shipped_model()
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,  # large, so that answers vary and errors show
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-multi-head-tied": ("Llama", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR_ROPE}),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 24}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN_ROPE}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}
FAMILIES = ("tiny", *VARIANTS)


class Reference:
    """A model folder and what transformers makes of it."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder = folder
        self._model = model
        self._vocab_size = model.config.vocab_size

    @cache  # noqa: B019 (lives as long as the session)
    def prompt(self, length: int, seed: int = 0) -> tuple[int, ...]:
        rng = random.Random(1000 * length + seed)
        return tuple(rng.randrange(5, self._vocab_size) for _ in range(length))

    @cache  # noqa: B019
    def answer(self, prompt: tuple[int, ...]) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NUM_TOKENS,
                do_sample=False,
                eos_token_id=None,
            )
        tokens: list[int] = out[0, len(prompt) :].tolist()
        return tokens


@pytest.fixture(scope="module", autouse=True)
def _transformers() -> Any:
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        # The library's own imports warn about its dependencies' deprecations.
        warnings.simplefilter("ignore", DeprecationWarning)
        library: Any = importlib.import_module("transformers")
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    return library


@pytest.fixture(scope="module")
def references(
    _transformers: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Reference]:
    found = {}
    for name, (family, changes) in VARIANTS.items():
        config = getattr(_transformers, f"{family}Config")(**{**SHAPE, **changes})
        torch.manual_seed(1)
        model = getattr(_transformers, f"{family}ForCausalLM")(config).eval()
        if family == "Qwen2":  # transformers starts biases at 0, which would hide them
            for layer in model.model.layers:
                for part in "qkv":
                    getattr(layer.self_attn, f"{part}_proj").bias.data.normal_(0, 0.3)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder, max_shard_size="200KB" if name == "llama" else "1GB")
        found[name] = Reference(folder, model)
    load = _transformers.AutoModelForCausalLM.from_pretrained
    found["tiny"] = Reference(TINY, load(TINY, dtype=torch.float32))
    return found


@pytest.fixture(params=FAMILIES)
def reference(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    return references[request.param]


@cache
def runner_of(folder: Path, page_size: int = PAGE_SIZE) -> TorchRunner:
    return load_runner(folder, page_size=page_size, num_pages=NUM_PAGES)


@pytest.mark.parametrize("length", [1, 2, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 1000])
def test_greedy_tokens_equal_transformers(by_hand: Any, reference: Reference, length: int) -> None:
    prompt = reference.prompt(length)
    assert by_hand.generate(
        runner_of(reference.folder), by_hand.sequences([prompt], num_pages=NUM_PAGES)
    ) == [reference.answer(prompt)]


def test_answers_of_the_random_models_vary(references: dict[str, Reference]) -> None:
    """A model that repeats one token would agree with anything."""
    for name in VARIANTS:
        reference = references[name]
        assert len(set(reference.answer(reference.prompt(17)))) > 8, name


@pytest.mark.parametrize("chunk_tokens", [1, 7, PAGE_SIZE, 33])
def test_chunks_of_a_prompt_change_nothing(
    by_hand: Any, references: dict[str, Reference], chunk_tokens: int
) -> None:
    reference = references["llama"]
    prompt = reference.prompt(100)
    sequences = by_hand.sequences([prompt], num_pages=NUM_PAGES)
    assert by_hand.generate(runner_of(reference.folder), sequences, chunk_tokens) == [
        reference.answer(prompt)
    ]


@pytest.mark.parametrize(("name", "chunk_tokens"), [("tiny", 4096), ("llama", 40)])
def test_sixteen_at_once_answer_as_each_alone(
    by_hand: Any, references: dict[str, Reference], name: str, chunk_tokens: int
) -> None:
    """Lengths from 1 to 1,000, prefill mixed with decoding, in several padding groups."""
    reference = references[name]
    lengths = [1, 2, 3, 9, 15, 16, 17, 31, 33, 50, 64, 100, 130, 257, 400, 1000]
    prompts = [reference.prompt(length) for length in lengths]
    answers = by_hand.generate(
        runner_of(reference.folder), by_hand.sequences(prompts, num_pages=NUM_PAGES), chunk_tokens
    )
    assert answers == [reference.answer(prompt) for prompt in prompts]


@pytest.mark.parametrize("page_size", [1, 5, 64])
def test_page_size_changes_nothing(
    by_hand: Any, references: dict[str, Reference], page_size: int
) -> None:
    reference = references["llama"]
    prompts = [reference.prompt(length) for length in (17, 100)]
    sequences = by_hand.sequences(prompts, num_pages=NUM_PAGES, page_size=page_size)
    answers = by_hand.generate(runner_of(reference.folder, page_size), sequences, chunk_tokens=30)
    assert answers == [reference.answer(prompt) for prompt in prompts]


def test_kv_of_a_layer_is_there_when_its_hook_is_called(
    by_hand: Any, references: dict[str, Reference]
) -> None:
    runner = runner_of(references["llama"].folder)
    (sequence,) = by_hand.sequences([references["llama"].prompt(40)], num_pages=NUM_PAGES)
    seen: list[tuple[int, bytes]] = []

    def read(layer: int) -> bytes:
        out = bytearray(40 * runner.pool.bytes_per_token_layer)
        runner.pool.read(sequence.pages, layer, 0, 40, memoryview(out))
        return bytes(out)

    batch = Batch((Chunk(sequence, 0, 40, sample=False),), ())
    output = runner.run(batch, lambda layer: seen.append((layer, read(layer))))
    assert output.tokens == []
    assert seen == [(layer, read(layer)) for layer in range(runner.config.num_layers)]
    assert all(any(kv) for _, kv in seen)


def test_kv_sent_to_another_pool_continues_the_same(
    by_hand: Any, references: dict[str, Reference]
) -> None:
    """What disaggregation rests on: prefill here, copy, decode there with other pages."""
    reference = references["llama"]
    prompt = reference.prompt(100)
    sender, receiver = runner_of(reference.folder), runner_of(reference.folder, page_size=5)
    (source,) = by_hand.sequences([prompt], num_pages=NUM_PAGES)
    (target,) = by_hand.sequences([prompt], num_pages=NUM_PAGES, page_size=5)
    by_hand.step(sender, Batch((Chunk(source, 0, 90, sample=False),), ()))
    for layer in range(sender.pool.num_layers):
        message = bytearray(90 * sender.pool.bytes_per_token_layer)
        sender.pool.read(source.pages, layer, 0, 90, memoryview(message))
        receiver.pool.write(target.pages, layer, 0, 90, memoryview(bytes(message)))
    target.num_computed = 90
    assert by_hand.generate(receiver, [target]) == [reference.answer(prompt)]


def test_bfloat16_runs(by_hand: Any, references: dict[str, Reference]) -> None:
    reference = references["llama"]
    runner = load_runner(reference.folder, dtype="bfloat16", num_pages=NUM_PAGES)
    sequences = by_hand.sequences([reference.prompt(20), reference.prompt(3)], num_pages=NUM_PAGES)
    answers = by_hand.generate(runner, sequences, chunk_tokens=8)
    assert [len(answer) for answer in answers] == [NUM_TOKENS] * 2
    assert runner.pool.bytes_per_token_layer == 2 * 2 * 16 * 2  # K and V, heads, size, bytes


def test_a_seeded_request_draws_the_same_in_any_batch(
    by_hand: Any, references: dict[str, Reference]
) -> None:
    reference = references["llama"]
    runner = runner_of(reference.folder)
    sampling = Sampling(max_tokens=NUM_TOKENS, temperature=0.8, top_p=0.9, seed=11)
    prompts = [reference.prompt(length) for length in (5, 30, 200)]
    alone = [
        by_hand.generate(runner, by_hand.sequences([p], num_pages=NUM_PAGES, sampling=sampling))[0]
        for p in prompts
    ]
    assert (
        by_hand.generate(runner, by_hand.sequences(prompts, num_pages=NUM_PAGES, sampling=sampling))
        == alone
    )
    assert alone[0] != reference.answer(prompts[0])


def test_kv_memory_becomes_whole_pages() -> None:
    page_bytes = PAGE_SIZE * 4 * 2 * 2 * 64 * 4
    runner = load_runner(TINY, page_size=PAGE_SIZE, kv_memory_bytes=10 * page_bytes + 5)
    assert runner.pool.num_pages == 10
    with pytest.raises(ConfigError, match="hold no page"):
        load_runner(TINY, page_size=PAGE_SIZE, kv_memory_bytes=page_bytes - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "abacus"}, "'abacus' is not a device"),
        ({"device": "meta"}, "'meta' is not supported"),
        ({"dtype": "int4"}, "dtype 'int4' is not supported"),
        ({"attention": "flashinfer"}, "needs a CUDA device"),
        ({"attention": "flash"}, "attention 'flash' is not known"),
    ],
)
def test_what_the_runner_cannot_do_is_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_runner(TINY, num_pages=8, **arguments)  # type: ignore[arg-type]
