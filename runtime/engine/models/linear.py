"""Products with fixed weights. On a CPU the weights are packed once for oneDNN's kernels, which torch
itself uses for float32 only inside compiled graphs; measured here, they take half the time of the
plain product from two rows on, and of large weights from one row on.
"""

from typing import Any

import torch
from torch.nn import functional

_SMALL_BYTES = 8 << 20
"""Of weights up to this size a plain copy stays, for single rows: calling oneDNN costs more than
it saves there."""


class Linear:
    """x [rows, in] -> x @ weight.T + bias [rows, out], for weight [out, in] and bias [out]."""

    __slots__ = ("_bias", "_packed", "_plain")

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, packed: bool = True
    ) -> None:
        """Without `packed`, or where packing is not available, this is `functional.linear`."""
        self._bias = bias
        self._packed = _pack(weight) if packed else None
        small = weight.dtype == torch.float32 and weight.nbytes <= _SMALL_BYTES
        self._plain = weight if small or self._packed is None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._plain is not None and (self._packed is None or len(x) == 1):
            return functional.linear(x, self._plain, self._bias)
        return _multiply(x, self._packed, self._bias)


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight in oneDNN's layout, opaque to all but `_multiply`; None where there is none."""
    operations = torch.ops.mkldnn
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    available = torch.backends.mkldnn.is_available()
    if not available or not hasattr(operations, "_linear_pointwise"):
        return None
    packed: torch.Tensor = operations._reorder_linear_weight(weight)
    return packed


def _multiply(x: torch.Tensor, packed: Any, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
        x, packed, bias, "none", [], ""
    )
    return result
