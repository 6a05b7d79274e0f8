"""Models without weights: published shapes by name, and folders with a configuration alone.

For measuring how fast something is, where what it says does not matter. Text of a model that brings
no tokenizer is read and written with the shipped model's, whose ids fit in any vocabulary here.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from mserve.runtime.engine.model_config import ModelConfig, parse_config
from mserve.runtime.errors import ConfigError
from mserve.runtime.model_folder import Json, read_eos_ids, read_json

_LLAMA3: Json = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
_LLAMA3_ROPE: Json = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES: dict[str, Json] = {
    "llama-3.1-8b": {
        **_LLAMA3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "head_dim": 128,
        "rope_scaling": {**_LLAMA3_ROPE, "factor": 8.0},
        "tie_word_embeddings": False,
    },
    "llama-3.2-1b": {
        **_LLAMA3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "rope_scaling": {**_LLAMA3_ROPE, "factor": 32.0},
        "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    },
}
"""As published in these models' config.json."""

_CONFIGURATIONS = ("config.json", "generation_config.json")


def shape_config(name: str) -> ModelConfig:
    """Of a published shape; its answers end only at their limit."""
    return parse_config(Path(name), SHAPES[name], ())


@contextmanager
def dummy_folder(model: Path | str) -> Iterator[Path]:
    """A folder of configuration and tokenizer for the name of a shape or a folder without weights.

    A folder that has both is itself the answer; else a temporary one has the same last name, and
    is gone afterwards. Raises ConfigError if `model` is neither.
    """
    folder = Path(model)
    if (folder / "config.json").exists() and (folder / "tokenizer.json").exists():
        yield folder
        return
    with TemporaryDirectory(prefix="mserve-") as parent:
        made = Path(parent) / folder.resolve().name
        _copy_tokenizer(made)
        if folder.is_dir():
            read_json(folder, "config.json")  # for its errors
            for name in _CONFIGURATIONS:
                if (folder / name).exists():
                    shutil.copyfile(folder / name, made / name)
        else:
            _write_config(str(model), made)
        yield made


def _copy_tokenizer(target: Path) -> None:
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes(files("mserve").joinpath("model", name).read_bytes())


def _write_config(name: str, target: Path) -> None:
    """The shape's, with the end tokens of the tokenizer that stands in for its own."""
    if name not in SHAPES:
        raise ConfigError(
            f"{name!r} is neither a folder with a config.json nor the name of a shape; shapes are"
            f" {', '.join(SHAPES)}."
        )
    ends = read_eos_ids(Path(str(files("mserve").joinpath("model"))))
    body = {**SHAPES[name], "eos_token_id": list(ends)}
    (target / "config.json").write_text(json.dumps(body))
