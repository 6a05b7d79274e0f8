"""Random weights: for a shape's name or a configuration alone, and always the same ones."""

import json
import shutil
from array import array
from pathlib import Path

import pytest
import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.model_config import read_config
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.engine.shapes import SHAPES, dummy_folder, shape_config
from mserve.runtime.engine.weights import DummyWeights, dummy_digest
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Sampling
from mserve.runtime.tokenizer import Tokenizer

TINY = shipped_model()
CPU = torch.device("cpu")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with a configuration alone."""
    folder = tmp_path / "bare"
    folder.mkdir()
    body = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**body, "vocab_size": 4096}))
    return folder


def first_tokens(runner: TorchRunner) -> list[int]:
    """Greedily, after each of some prompts."""
    chunks = []
    for index in range(8):
        tokens = array("i", range(5 + index, 25))
        sequence = Sequence(
            f"s{index}",
            tokens,
            len(tokens),
            sampling=Sampling(max_tokens=1, temperature=0.0),
            pages=array("i", [2 * index, 2 * index + 1]),
        )
        chunks.append(Chunk(sequence, 0, len(tokens), sample=True))
    drawn = runner.run(Batch(tuple(chunks), ())).tokens
    assert drawn is not None
    return drawn


def test_published_shapes_have_their_published_sizes() -> None:
    """Parameters in all, which name these models: 8.03, 1.24 and 8.19 billion."""
    sizes = {name: num_parameters(name) for name in SHAPES}
    assert sizes == {
        "llama-3.1-8b": 8_030_261_248,
        "llama-3.2-1b": 1_235_814_400,
        "qwen3-8b": 8_190_735_360,
    }


def num_parameters(name: str) -> int:
    config = shape_config(name)
    attention = 2 * config.hidden_size * config.head_dim * (config.num_heads + config.num_kv_heads)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    norms = 2 * config.hidden_size + (2 * config.head_dim if config.qk_norm else 0)
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_embeddings else 2)
    layers = config.num_layers * (attention + feed_forward + norms)
    return embeddings + layers + config.hidden_size


def test_dummy_weights_depend_on_the_name_alone() -> None:
    source, again = DummyWeights(torch.float32, CPU), DummyWeights(torch.float32, CPU)
    first, second = source.tensor("a.weight", 64, 32), source.tensor("b.weight", 64, 32)
    assert torch.equal(again.tensor("b.weight", 64, 32), second)
    assert torch.equal(again.tensor("a.weight", 64, 32), first)
    assert not torch.equal(first, second)
    assert not torch.equal(DummyWeights(torch.float32, CPU, 1).tensor("a.weight", 64, 32), first)
    assert 0.01 < first.std() < 0.03
    assert torch.equal(source.tensor("model.norm.weight", 8), torch.ones(8))


def test_a_configuration_alone_runs(bare: Path) -> None:
    tokens = first_tokens(load_runner(bare, load="dummy", num_pages=16))
    assert tokens == first_tokens(load_runner(bare, load="dummy", num_pages=16))
    assert len(set(tokens)) > 1
    assert all(0 <= token < 4096 for token in tokens)
    with pytest.raises(ConfigError, match=r"neither model\.safetensors"):
        load_runner(bare, num_pages=16)
    with pytest.raises(ConfigError, match="auto or dummy, not as 'none'"):
        load_runner(bare, load="none", num_pages=16)


def test_dummies_take_the_place_of_weights_that_are_there() -> None:
    dummy = first_tokens(load_runner(TINY, load="dummy", num_pages=16))
    assert dummy != first_tokens(load_runner(TINY, num_pages=16))


def test_a_shape_becomes_a_folder_that_everyone_can_read() -> None:
    with dummy_folder("llama-3.2-1b") as folder:
        assert folder.name == "llama-3.2-1b"
        config = read_config(folder)
        assert (config.num_layers, config.head_dim, config.tie_embeddings) == (16, 64, True)
        tokenizer = Tokenizer.load(folder)
        assert tokenizer.decode(tokenizer.encode("Once upon a time")) == "Once upon a time"
        assert tokenizer.vocab_size <= config.vocab_size
        assert set(config.eos_ids) == tokenizer.eos_ids
    assert not folder.exists()
    assert shape_config("llama-3.2-1b").eos_ids == ()


def test_a_folder_keeps_what_it_has(bare: Path) -> None:
    with dummy_folder(TINY) as folder:
        assert folder == TINY
    with dummy_folder(bare) as folder:
        assert folder != bare
        assert folder.name == "bare"
        assert read_config(folder).vocab_size == 4096
        assert Tokenizer.load(folder).vocab_size == 2048
    shutil.copyfile(TINY / "tokenizer.json", bare / "tokenizer.json")
    with dummy_folder(bare) as folder:
        assert folder == bare


def test_neither_folder_nor_shape_is_refused(tmp_path: Path) -> None:
    message = "'gpt-5' is neither .* shapes are llama-3.1-8b, llama-3.2-1b, qwen3-8b"
    with pytest.raises(ConfigError, match=message), dummy_folder("gpt-5"):
        pass
    with pytest.raises(ConfigError, match=r"has no config\.json"), dummy_folder(tmp_path):
        pass


def test_the_digest_of_dummies(bare: Path) -> None:
    digest = dummy_digest(bare, "cpu")
    assert len(digest) == 16
    with dummy_folder(bare) as folder:
        assert dummy_digest(folder, "cpu") == digest
    assert dummy_digest(bare, "cuda:0") == dummy_digest(bare, "cuda:1") != digest
    assert dummy_digest(TINY, "cpu") != digest
