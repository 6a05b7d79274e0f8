"""A model folder that is not as it should be is refused in a sentence that says what is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.model_config import read_config
from mserve.runtime.engine.models.llama import LlamaWeights
from mserve.runtime.engine.rope import Llama3Scaling
from mserve.runtime.engine.weights import Checkpoint, weights_digest
from mserve.runtime.errors import ConfigError

TINY = shipped_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model that ships, to be damaged."""
    copy = tmp_path / "model"
    shutil.copytree(TINY, copy)
    return copy


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def load(folder: Path) -> LlamaWeights:
    with Checkpoint(folder, torch.float32, torch.device("cpu")) as checkpoint:
        return LlamaWeights.load(read_config(folder), checkpoint)


def test_the_model_that_ships() -> None:
    config = read_config(TINY)
    assert config.architecture == "LlamaForCausalLM"
    assert config.head_dim == 64
    assert config.tie_embeddings
    assert config.eos_ids == (0, 4)
    weights = load(TINY)
    assert len(weights.layers) == config.num_layers
    assert weights.embedding.shape == (config.vocab_size, config.hidden_size)
    assert weights.embedding.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel; supported are LlamaForCausalLM"),
        ({"architectures": None}, "the architecture is none"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope type 'dynamic' is not supported"),
        ({"rope_parameters": {"rope_type": "linear"}}, "does not give factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "does not give factor"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        (
            {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]},
            "a sliding window in some layers is not supported",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, not a positive count"),
        ({"vocab_size": None}, "does not give vocab_size"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 key-value heads"),
        ({"head_dim": 7}, "head_dim is 7, which is odd"),
    ],
)
def test_configurations_that_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(ConfigError, match=message):
        read_config(folder)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_parameters": None},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ],
)
def test_rope_theta_before_and_since_transformers_5(folder: Path, rope: dict[str, Any]) -> None:
    change_config(folder, **rope)
    assert read_config(folder).rope_theta == 5e5


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_llama3_scaling_is_read_from_both_places(folder: Path, key: str) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    change_config(folder, **{"rope_parameters": None, key: scaling})
    assert read_config(folder).rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


def test_one_eos_id_and_none(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert read_config(folder).eos_ids == (7,)
    (folder / "generation_config.json").unlink()
    assert read_config(folder).eos_ids == (0, 4)
    change_config(folder, eos_token_id=None)
    assert read_config(folder).eos_ids == ()


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_tensors(folder, **{"model.layers.2.mlp.up_proj.weight": None})
    with pytest.raises(ConfigError, match=r"no tensor 'model\.layers\.2\.mlp\.up_proj\.weight'"):
        load(folder)


def test_a_misshaped_tensor_is_named(folder: Path) -> None:
    change_tensors(folder, **{"model.layers.1.self_attn.k_proj.weight": torch.zeros(64, 256)})
    message = r"layers\.1\.self_attn\.k_proj\.weight' .*\[64, 256\].*asks for \[128, 256\]"
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_untied_embeddings_need_a_head(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(ConfigError, match=r"no tensor 'lm_head\.weight'"):
        load(folder)


def test_missing_and_broken_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model folder .*nowhere"):
        read_config(tmp_path / "nowhere")
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor .*index\.json"):
        load(folder)
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="names model-00001-of-00002"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_config(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="not hold a JSON object"):
        read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        read_config(folder)


def test_the_digest_tells_weights_apart(folder: Path) -> None:
    original = weights_digest(TINY)
    assert len(original) == 16
    assert weights_digest(folder) == original
    change_config(folder, rope_theta=20000.0)
    changed_config = weights_digest(folder)
    assert changed_config != original
    norm = load_file(folder / "model.safetensors")["model.norm.weight"]
    change_tensors(folder, **{"model.norm.weight": norm + 1})
    assert weights_digest(folder) not in (original, changed_config)


def test_quantized_tensors_are_refused(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    shape = load_file(folder / "model.safetensors")[name].shape
    change_tensors(folder, **{name: torch.zeros(shape, dtype=torch.int8)})
    with pytest.raises(ConfigError, match=rf"{name}.*torch.int8: quantized"):
        load(folder)


def test_tensors_that_no_layer_asks_for_are_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {f"model.layers.{layer}.self_attn.q_norm.weight": torch.ones(64) for layer in range(4)}
    change_tensors(folder, **extra)
    load(folder)
    assert "4 tensors" in caplog.text
    assert "model.layers.0.self_attn.q_norm.weight" in caplog.text
    load(TINY)
    assert caplog.text.count("tensors of") == 1
