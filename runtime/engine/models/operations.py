"""What a layer does between its products: norms, gates, rotations. Weights' products are linear.py's.

`TorchOperations` runs anywhere and says what each operation is; a device may bring faster ones.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn import functional

from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.models.rotary import rotary_tables, rotate

Rotate = Callable[[torch.Tensor], torch.Tensor]
"""qk [rows, heads + kv_heads, head_dim] -> the same, turned to each row's position; may be in place"""


class Operations(Protocol):
    """Of one model: its epsilon and rotary tables are inside. Rows are tokens."""

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm over the last dimension: x [..., size], weight [size]."""
        ...

    def add_norm(
        self, hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden + change, its norm), all [rows, hidden]; may overwrite both arguments."""
        ...

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[rows, 2 * intermediate] -> silu(first half) * second half."""
        ...

    def rotation(self, positions: torch.Tensor) -> Rotate:
        """For rows at these positions [rows], in every layer of one step."""
        ...


class TorchOperations:
    """In the words of torch."""

    def __init__(self, config: ModelConfig, like: torch.Tensor) -> None:
        """Tables in the dtype and on the device of `like`."""
        self._epsilon = config.norm_epsilon
        cos, sin = rotary_tables(
            config.head_dim, config.max_positions, config.rope_theta, config.rope_scaling
        )
        self._cos = cos[:, None].to(like)  # [positions, 1, head_dim], for all heads
        self._sin = sin[:, None].to(like)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._epsilon)

    def add_norm(
        self, hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = hidden + change
        return hidden, self.norm(hidden, weight)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)  # [rows, intermediate] each
        return functional.silu(gate) * up

    def rotation(self, positions: torch.Tensor) -> Rotate:
        cos, sin = self._cos[positions], self._sin[positions]  # [rows, 1, head_dim]
        return lambda qk: rotate(qk, cos, sin)
