"""One rank's part of a tensor-parallel model (Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3)
and the sums over all parts.

Every rank has all layers with some of each layer's heads and feed-forward columns, so a rank is the
same model with a smaller configuration; only what is added to the residual stream is summed over
the ranks. Knows no processes: those are ranks.py's.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from mserve.runtime.engine.batching import DeviceLost
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.models.operations import Operations, Rotate
from mserve.runtime.engine.rank_messages import RankSpec
from mserve.runtime.engine.weights import WeightSource
from mserve.runtime.errors import ConfigError

_c10d: Any = distributed  # most of which torch's annotations leave out
_SUM_TIMEOUT = timedelta(minutes=5)

Sum = Callable[[torch.Tensor], torch.Tensor]
"""A contiguous tensor, which it may overwrite -> its sum over all ranks, on every rank."""

_SPLIT_OUTPUTS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # rows of a weight
_SPLIT_INPUTS = ("o_proj", "down_proj")  # columns of a weight


class RankFailure(DeviceLost):
    """The ranks no longer hold the same model's KV, or compute different steps: all must end."""


def _nothing_to_sum(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `degree`; by default the whole model.

    Of n heads, key-value heads or columns it has [rank * n / degree, (rank + 1) * n / degree).
    Embedding, norms and head are whole on every rank.
    """

    rank: int = 0
    degree: int = 1
    sum: Sum = _nothing_to_sum

    def config(self, whole: ModelConfig) -> ModelConfig:
        """The configuration of the rank's part. Raises ConfigError if the parts would differ."""
        check_degree(whole, self.degree)
        return replace(
            whole,
            num_heads=whole.num_heads // self.degree,
            num_kv_heads=whole.num_kv_heads // self.degree,
            intermediate_size=whole.intermediate_size // self.degree,
        )

    def weights(self, whole: WeightSource) -> WeightSource:
        return whole if self.degree == 1 else ShardedWeights(whole, self.rank, self.degree)

    def operations(self, local: Operations) -> Operations:
        return local if self.degree == 1 else SummedOperations(local, self.sum)


WHOLE = Shard()


def check_degree(config: ModelConfig, degree: int) -> None:
    """Raises ConfigError unless `degree` ranks can have equal parts of the model."""
    parts = {
        "key-value heads": config.num_kv_heads,
        "attention heads": config.num_heads,
        "columns in its feed-forward layers": config.intermediate_size,
    }
    for what, count in parts.items():
        if count % degree:
            raise ConfigError(
                f"The model has {count} {what}, which {degree} GPUs cannot share evenly: `gpus`"
                f" must divide {count}."
            )


class ShardedWeights:
    """A `WeightSource` that is asked for a rank's shapes and reads the whole tensors."""

    def __init__(self, whole: WeightSource, rank: int, degree: int) -> None:
        self._whole = whole
        self._rank = rank
        self._degree = degree

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """The rank's part, `shape`, of the tensor. Raises ConfigError as the whole's source does."""
        dimension = _split_dimension(name)
        if dimension is None:
            return self._whole.tensor(name, *shape)
        sizes = list(shape)
        sizes[dimension] *= self._degree
        whole = self._whole.tensor(name, *sizes)
        # A copy, so that the rest of the whole is given back.
        return whole.chunk(self._degree, dimension)[self._rank].clone()


def _split_dimension(name: str) -> int | None:
    """Of `model.layers.0.self_attn.q_proj.weight` and the like; None where all ranks have all."""
    module = name.split(".")[-2]
    if module in _SPLIT_OUTPUTS:
        return 0
    return 1 if module in _SPLIT_INPUTS else None


class SummedOperations:
    """A device's operations, of which the one that adds to the residual stream sums first.

    What is added there is always a product with a weight split by inputs, so each rank has a part
    of the sum. Everything else works on a rank's own heads and columns.
    """

    def __init__(self, local: Operations, add: Sum) -> None:
        self._local = local
        self._sum = add
        self.norm = local.norm
        self.gate = local.gate

    def add_norm(
        self, hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operations`; `change` [rows, hidden] is this rank's part."""
        return self._local.add_norm(hidden, self._sum(change), weight)

    def rotation(self, positions: torch.Tensor) -> Rotate:
        return self._local.rotation(positions)


# --- joining -----------------------------------------------------------------------------------


def rank_devices(device: torch.device, degree: int, first_gpu: int | None = None) -> list[str]:
    """One device per rank: consecutive GPUs from the one named, or, where none is, from `first_gpu`,
    counted round and round. On the CPU all share it. Raises ConfigError if there are too few."""
    if device.type != "cuda":
        return [str(device)] * degree
    there = torch.cuda.device_count()
    needed = degree + (device.index or 0)
    if needed > there:
        raise ConfigError(
            f"A worker with `gpus = {degree}` on {device} needs {needed} GPUs; torch sees {there}."
        )
    base = first_gpu or 0 if device.index is None else device.index
    return [f"cuda:{(base + rank) % there}" for rank in range(degree)]


def join(spec: RankSpec, listener: socket.socket | None = None) -> Sum:
    """Meets the other ranks; rank 0 brings the listening socket of the port where they meet.

    gloo binds to the loopback only; nccl takes what it finds on the machine. Raises RankFailure.
    """
    master_fd = os.dup(listener.fileno()) if listener is not None else None
    try:
        store = _c10d.TCPStore(
            "127.0.0.1",
            spec.port,
            spec.degree,
            is_master=master_fd is not None,
            wait_for_workers=False,
            master_listen_fd=master_fd,
        )
        device = torch.device(spec.device)
        return _nccl(store, spec, device) if device.type == "cuda" else _gloo(store, spec)
    except RuntimeError as error:
        raise RankFailure(f"Rank {spec.rank} could not join the others: {error}") from error


def _gloo(store: Any, spec: RankSpec) -> Sum:
    options = _c10d.ProcessGroupGloo._Options()
    options._devices = [_c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = _SUM_TIMEOUT
    group = _c10d.ProcessGroupGloo(store, spec.rank, spec.degree, options)

    def add(tensor: torch.Tensor) -> torch.Tensor:
        group.allreduce([tensor]).wait()
        return tensor

    return add


def _nccl(store: Any, spec: RankSpec, device: torch.device) -> Sum:
    _c10d.init_process_group(
        "nccl",
        store=store,
        rank=spec.rank,
        world_size=spec.degree,
        timeout=_SUM_TIMEOUT,
        device_id=device,
    )

    def add(tensor: torch.Tensor) -> torch.Tensor:
        _c10d.all_reduce(tensor)  # in order with the stream's work; nobody waits here
        return tensor

    return add
