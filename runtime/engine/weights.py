"""The tensors of a Hugging Face folder: safetensors, in one file or sharded by an index; or random
ones in their place.

Owns opening, shape checks and the digest that tells two models' KV apart. Does not know how a
model arranges its weights: it hands out tensors by name.
"""

import json
import logging
import struct
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from xxhash import xxh3_64, xxh3_64_intdigest

from mserve.runtime.errors import ConfigError
from mserve.runtime.model_folder import read_json

logger = logging.getLogger("mserve.engine")

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DERIVED = ("rotary_emb.inv_freq", "lm_head.weight")  # in some folders, and not always needed
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096
_DUMMY_SCALE = 0.02
"""The standard deviation with which models of this family begin their training."""


class WeightSource(Protocol):
    """Where a model gets its tensors from."""

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Raises ConfigError with the tensor's name if it cannot be had in this shape."""
        ...


class DummyWeights:
    """Random tensors of any name and shape, the same for every load on devices of one type.

    Each is drawn from its own name, so that the order and which of them are asked for do not
    matter. Norms scale by one: activations stay finite through any number of layers.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> None:
        self._dtype = dtype
        self._device = device
        self._seed = seed

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        if name.endswith("norm.weight"):
            return tensor.fill_(1.0)
        generator = torch.Generator(self._device)
        generator.manual_seed(xxh3_64_intdigest(name.encode(), self._seed) >> 1)
        return tensor.normal_(0.0, _DUMMY_SCALE, generator=generator)


class Checkpoint:
    """Open weight files; tensors are read one at a time, so that loading needs little memory."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Opens every file. Raises ConfigError naming what is missing or unreadable."""
        self._dtype = dtype
        self._device = device
        self._folder = folder
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        self._unread: set[str] = set()
        for path in weight_files(folder):
            file = self._stack.enter_context(_open(path))
            self._file_of.update(dict.fromkeys(file.keys(), file))
        self._unread.update(name for name in self._file_of if not name.endswith(_DERIVED))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is None and self._unread:
            some = ", ".join(sorted(self._unread)[:3])
            logger.warning(
                "%d tensors of %s are not the model's, as its config.json describes it: %s%s",
                *(len(self._unread), self._folder, some, ", ..." if len(self._unread) > 3 else ""),
            )

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor `name` in the dtype and on the device asked for.

        Raises ConfigError with the tensor's name if it is missing, has another shape or is no
        floating-point one.
        """
        file = self._file_of.get(name)
        if file is None:
            raise ConfigError(f"The weights in {str(self._folder)!r} have no tensor {name!r}.")
        self._unread.discard(name)
        tensor: torch.Tensor = file.get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ConfigError(
                f"The tensor {name!r} in {str(self._folder)!r} has shape {list(tensor.shape)};"
                f" the configuration asks for {list(shape)}."
            )
        if not tensor.is_floating_point():
            raise ConfigError(
                f"The tensor {name!r} in {str(self._folder)!r} is of {tensor.dtype}: quantized models"
                " are not supported."
            )
        return tensor.to(device=self._device, dtype=self._dtype)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in order. Raises ConfigError if one is missing."""
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).exists():
        raise ConfigError(
            f"The model folder {str(folder)!r} has neither {SINGLE_FILE} nor {INDEX_FILE}."
        )
    shards = read_json(folder, INDEX_FILE).get("weight_map", {})
    paths = [folder / name for name in sorted(set(shards.values()))]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{INDEX_FILE} names {path.name}, which is not in {str(folder)!r}.")
    return paths


def weights_digest(folder: Path) -> str:
    """16 hex digits that differ, in all likelihood, where two folders' KV would differ.

    Covers config.json, and of each weight file its size, header and samples spread over its bytes:
    it takes milliseconds for files of any size.
    """
    digest = _config_digest(folder)
    for path in weight_files(folder):
        num_bytes = path.stat().st_size
        digest.update(struct.pack("<q", num_bytes))
        with path.open("rb") as file:
            header_bytes = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            digest.update(file.read(min(header_bytes, num_bytes)))
            for sample in range(_NUM_SAMPLES):
                file.seek(max(0, num_bytes - _SAMPLE_BYTES) * sample // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def dummy_digest(folder: Path, device: str) -> str:
    """`weights_digest` of dummy weights: one configuration on one type of device has one."""
    digest = _config_digest(folder)
    digest.update(f"dummy on {torch.device(device).type}".encode())
    return digest.hexdigest()


def _config_digest(folder: Path) -> xxh3_64:
    return xxh3_64(json.dumps(read_json(folder, "config.json"), sort_keys=True).encode())


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{str(path)!r} is not a safetensors file: {error}.") from error
