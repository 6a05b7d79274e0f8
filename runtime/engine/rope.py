"""Rotary positions as config.json describes them: base and, for long contexts, how they are scaled.

Plain values, no torch; `models/rotary.py` computes with them.
"""

from dataclasses import dataclass
from pathlib import Path

from mserve.runtime.errors import ConfigError
from mserve.runtime.model_folder import Json, JsonFields


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every position counts `factor` times less (Chen et al., arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Stretches low rotary frequencies: Llama 3.1's way to longer contexts."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al., arXiv 2309.00071): as Llama 3.1's, by dimension, and all attention scores
    are sharpened: cos and sin are multiplied by `attention_factor`."""

    factor: float
    original_max_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float | None  # None: 0.1 ln(factor) + 1, section 3.4
    truncate: bool


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling
KINDS = ("default", "linear", "llama3", "yarn")


def read_rope_theta(raw: Json) -> float:
    return float(_rope(raw).get("rope_theta") or raw.get("rope_theta") or 10000.0)


def read_rope_scaling(folder: Path, raw: Json) -> RopeScaling | None:
    """Raises ConfigError for a kind that is not computed here, or lacks what it needs."""
    rope = _rope(raw)
    fields = JsonFields(folder / "config.json", rope)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(f"{fields.where}: partial_rotary_factor is not supported.")
    match kind := rope.get("rope_type", rope.get("type", "default")):
        case "default":
            return None
        case "linear":
            return LinearScaling(fields.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=fields.number("factor"),
                low_freq_factor=fields.number("low_freq_factor"),
                high_freq_factor=fields.number("high_freq_factor"),
                original_max_positions=fields.count("original_max_position_embeddings"),
            )
        case "yarn":
            return _yarn(fields, rope)
    raise ConfigError(
        f"{fields.where}: rope type {kind!r} is not supported; supported are {', '.join(KINDS)}."
    )


def _yarn(fields: JsonFields, rope: Json) -> YarnScaling:
    for name in ("mscale", "mscale_all_dim"):
        if rope.get(name):
            raise ConfigError(f"{fields.where}: YaRN with {name} is not supported.")
    has_factor = rope.get("attention_factor") is not None
    return YarnScaling(
        factor=fields.number("factor"),
        original_max_positions=fields.count("original_max_position_embeddings"),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        attention_factor=fields.number("attention_factor") if has_factor else None,
        truncate=bool(rope.get("truncate", True)),
    )


def _rope(raw: Json) -> Json:
    """`rope_parameters` (transformers 5) or `rope_scaling` (before)."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}
