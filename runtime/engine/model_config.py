"""What a model is, read from config.json and checked: everything its weights' shapes follow from.

Refuses what the models here do not compute, by name, rather than computing something else. No
torch, so that a worker's HTTP process can read it too.
"""

from dataclasses import dataclass
from pathlib import Path

from mserve.runtime.engine.rope import RopeScaling, read_rope_scaling, read_rope_theta
from mserve.runtime.errors import ConfigError
from mserve.runtime.model_folder import Json, JsonFields, read_eos_ids, read_json

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


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
    rope_scaling: RopeScaling | None
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    sliding_window: int | None  # positions that one attends to, its own included
    eos_ids: tuple[int, ...]


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a Hugging Face folder. Raises ConfigError saying what is at fault."""
    return parse_config(folder, read_json(folder, "config.json"), read_eos_ids(folder))


def parse_config(folder: Path, raw: Json, eos_ids: tuple[int, ...]) -> ModelConfig:
    """What `raw`, the object of a config.json, says; `folder` is for the errors' words only.

    Raises ConfigError saying what is at fault.
    """
    architecture = _architecture(folder, raw)
    _refuse_variants(folder, raw)
    fields = JsonFields(folder / "config.json", raw)
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
        rope_theta=read_rope_theta(raw),
        rope_scaling=read_rope_scaling(folder, raw),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
        sliding_window=_sliding_window(folder, raw),
        eos_ids=eos_ids,
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


def _sliding_window(folder: Path, raw: Json) -> int | None:
    """None where no position is further back than the window. Raises ConfigError for models that
    have one in some layers only."""
    window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
    if window is None or window >= raw.get("max_position_embeddings", 0):
        return None
    kinds = set(raw.get("layer_types") or ["sliding_attention"])
    is_partial = raw.get("use_sliding_window") and raw.get("max_window_layers", 0) > 0
    if kinds != {"sliding_attention"} or is_partial:
        raise ConfigError(f"{_where(folder)}: a sliding window in some layers is not supported.")
    return JsonFields(folder / "config.json", raw).count("sliding_window")


def _where(folder: Path) -> str:
    return repr(str(folder / "config.json"))
