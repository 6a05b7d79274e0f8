"""GPUs and models as tables: what hardware.toml says, checked. What follows of it is in step_cost.py.

Knows no request and no step.
"""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from mserve.runtime.engine.model_config import read_config
from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.suggestions import meant

T = TypeVar("T")

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]


class Gpu(Struct, frozen=True, forbid_unknown_fields=True):
    """One GPU by its datasheet: dense rates, links one way."""

    memory_gb: Positive  # 1e9 bytes
    memory_gb_per_s: Positive
    num_multiprocessors: Count
    bf16_tflops: Positive
    peer_gb_per_s: Positive  # to another GPU of the host
    host_gb_per_s: Positive  # to the host's memory
    network_gbit_per_s: Positive  # to another host; one adapter for each GPU
    usd_per_hour: Positive
    fp8_tflops: Positive | None = None  # None: FP8 weights are multiplied as bf16


class Software(Struct, frozen=True, forbid_unknown_fields=True):
    """What a serving engine adds to, and gets out of, any GPU."""

    attention_compute: Share
    link: Share
    attention_imbalance: Annotated[float, Meta(ge=1)]
    elementwise_passes: Positive
    layer_overhead_us: Annotated[float, Meta(ge=0)]
    step_overhead_us: Annotated[float, Meta(ge=0)]
    all_reduce_us: Annotated[float, Meta(ge=0)]
    link_latency_us: Annotated[float, Meta(ge=0)]


class Format(Struct, frozen=True, forbid_unknown_fields=True):
    """How weights are kept, and the shares of the GPU's rates that this reaches."""

    weight_bytes: Positive
    memory: Share
    compute: Share


class ModelShape(Struct, frozen=True, forbid_unknown_fields=True):
    """A decoder of the Llama family: gated MLP, grouped queries."""

    num_layers: Count
    hidden_size: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    intermediate_size: Count
    vocab_size: Count
    tie_embeddings: bool
    hugging_face: tuple[str, ...] = ()  # repositories of models with this shape

    @property
    def layer_weights(self) -> int:
        """Of the matrices in one layer."""
        queries = self.num_heads * self.head_dim
        keys = self.num_kv_heads * self.head_dim
        return self.hidden_size * (2 * queries + 2 * keys + 3 * self.intermediate_size)

    @property
    def head_weights(self) -> int:
        """Of the matrix that makes logits."""
        return self.hidden_size * self.vocab_size

    @property
    def num_weights(self) -> int:
        embeddings = 0 if self.tie_embeddings else self.head_weights
        return self.num_layers * self.layer_weights + self.head_weights + embeddings


class Hardware(Struct, frozen=True, forbid_unknown_fields=True):
    """All tables of one file."""

    software: Software
    formats: Mapping[str, Format]
    gpus: Mapping[str, Gpu]
    models: Mapping[str, ModelShape]

    def gpu(self, name: str) -> Gpu:
        """In any case of letters. Raises ConfigError for one that is not in the table."""
        return _named("GPU", self.gpus, name, name)

    def format(self, name: str) -> Format:
        """In any case of letters. Raises ConfigError for one that is not in the table."""
        return _named("weight format", self.formats, name, name)

    def model(self, name: str) -> ModelShape:
        """From the table, by its key or a repository at Hugging Face, with or without who owns it;
        or, where `name` is a Hugging Face folder, of its config.json. Raises ConfigError."""
        if name not in self.models and Path(name).is_dir():
            return model_shape(Path(name))
        keys = {
            _without_owner(repository): key
            for key, shape in self.models.items()
            for repository in shape.hugging_face
        }
        return _named("model", self.models, name, keys.get(_without_owner(name), name))


def load_hardware(path: Path | None = None) -> Hardware:
    """The tables of a file, or those that come with mserve. Raises ConfigError naming what is wrong."""
    source = path or files(__package__) / "hardware.toml"
    try:
        return msgspec.convert(tomllib.loads(source.read_text(encoding="utf-8")), Hardware)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        problem = str(error).replace("`", "").replace("$.", "")
        raise ConfigError(f"{str(path)!r} is no table of hardware: {problem}.") from error


def model_shape(folder: Path) -> ModelShape:
    """Of a Hugging Face model folder. Raises ConfigError for what mserve does not serve."""
    config = read_config(folder)
    return ModelShape(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        tie_embeddings=config.tie_embeddings,
    )


def _without_owner(repository: str) -> str:
    return repository.rpartition("/")[2].lower()


def _named(kind: str, table: Mapping[str, T], name: str, key: str) -> T:
    """By `key`, for which the operator wrote `name`."""
    if key in table:
        return table[key]
    for known, entry in table.items():
        if known.lower() == key.lower():
            return entry
    hint = meant(name, table, "known are")
    if not hint.endswith("?"):
        folder = "its folder with config.json, or " if kind == "model" else ""
        hint += f" For another, give {folder}a table of your own with --hardware."
    raise ConfigError(f"There is no {kind} {name!r}; {hint}")
