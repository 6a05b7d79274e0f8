"""What a model is, read from config.json and checked: everything its weights' shapes follow from.

Refuses what the models here do not compute, by name, rather than computing something else. No
torch, so that a worker's HTTP process can read it too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mserve.runtime.errors import ConfigError
from mserve.runtime.model_folder import Json, read_eos_ids, read_json

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Stretches low rotary frequencies: Llama 3.1's way to longer contexts."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder of the Llama family. `qkv_bias` and `qk_norm` are what Qwen2 and Qwen3 add."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    eos_ids: tuple[int, ...]


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a Hugging Face folder. Raises ConfigError saying what is at fault."""
    raw = read_json(folder, "config.json")
    architecture = _architecture(folder, raw)
    _refuse_variants(folder, raw)
    fields = _Fields(folder, raw)
    num_heads = fields.count("num_attention_heads")
    hidden_size = fields.count("hidden_size")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.count("intermediate_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.count("num_key_value_heads", num_heads),
        head_dim=fields.count("head_dim", hidden_size // num_heads),
        max_positions=fields.count("max_position_embeddings"),
        norm_epsilon=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(raw),
        rope_scaling=_rope_scaling(folder, raw),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
        eos_ids=read_eos_ids(folder),
    )
    return _validated(folder, config)


def _validated(folder: Path, config: ModelConfig) -> ModelConfig:
    if config.num_heads % config.num_kv_heads:
        raise ConfigError(
            f"{_where(folder)}: {config.num_heads} attention heads cannot share"
            f" {config.num_kv_heads} key-value heads evenly."
        )
    if config.head_dim % 2:
        raise ConfigError(f"{_where(folder)}: head_dim is {config.head_dim}, which is odd.")
    return config


def _architecture(folder: Path, raw: Json) -> str:
    names = raw.get("architectures") or []
    for name in names:
        if name in SUPPORTED:
            return str(name)
    found = ", ".join(map(str, names)) or "none"
    raise ConfigError(
        f"{_where(folder)}: the architecture is {found}; supported are {', '.join(SUPPORTED)}."
    )


def _refuse_variants(folder: Path, raw: Json) -> None:
    """Options of these architectures that would change what is computed."""
    if raw.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{_where(folder)}: hidden_act {raw['hidden_act']!r} is not supported.")
    for name in ("attention_bias", "mlp_bias", "quantization_config"):
        if raw.get(name):
            raise ConfigError(f"{_where(folder)}: {name} is not supported.")
    window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
    if window is not None and window < raw.get("max_position_embeddings", 0):
        raise ConfigError(f"{_where(folder)}: sliding_window {window} is not supported.")


def _rope(raw: Json) -> Json:
    """`rope_parameters` (transformers 5) or `rope_scaling` (before)."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _rope_theta(raw: Json) -> float:
    return float(_rope(raw).get("rope_theta") or raw.get("rope_theta") or 10000.0)


def _rope_scaling(folder: Path, raw: Json) -> Llama3Scaling | None:
    rope = _rope(raw)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ConfigError(
            f"{_where(folder)}: rope type {kind!r} is not supported; default and llama3 are."
        )
    fields = _Fields(folder, rope)
    return Llama3Scaling(
        factor=fields.number("factor"),
        low_freq_factor=fields.number("low_freq_factor"),
        high_freq_factor=fields.number("high_freq_factor"),
        original_max_positions=fields.count("original_max_position_embeddings"),
    )


class _Fields:
    """Typed access to a JSON object, with the file in every error."""

    def __init__(self, folder: Path, raw: Json) -> None:
        self._folder = folder
        self._raw = raw

    def count(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        if not isinstance(value, int) or value <= 0:
            raise ConfigError(f"{_where(self._folder)}: {name} is {value!r}, not a positive count.")
        return value

    def number(self, name: str) -> float:
        value = self._value(name, None)
        if not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{_where(self._folder)}: {name} is {value!r}, not positive.")
        return float(value)

    def _value(self, name: str, default: int | None) -> Any:
        value = self._raw.get(name)
        value = default if value is None else value
        if value is None:
            raise ConfigError(f"{_where(self._folder)} does not give {name}.")
        return value


def _where(folder: Path) -> str:
    return repr(str(folder / "config.json"))
