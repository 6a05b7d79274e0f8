"""Steps that a device was given and nobody waits for, and what goes to the device for them.

On CUDA neither side of a copy waits: what goes up lies in pinned memory until it has been read, and
sampled tokens come down beside the next step. On the CPU a launched step is done.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from mserve.runtime.engine.batching import DeviceLost, StepOutOfMemory, StepOutput
from mserve.runtime.engine.distributions import Distributions


def upload(
    values: NDArray[Any] | Items[float], device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """A copy to a GPU is in order with the work of its stream; the host goes on."""
    found = torch.as_tensor(values, dtype=dtype)
    return pinned_for(device, found).to(device, non_blocking=True)


def pinned_for(device: torch.device, values: torch.Tensor) -> torch.Tensor:
    """`values`, from where a GPU reads without the host."""
    return values.pin_memory() if device.type == "cuda" else values


def with_sampled(token_ids: torch.Tensor, sampled: torch.Tensor) -> torch.Tensor:
    """token_ids [rows], where `unknown(row)` stands for sampled [rows of the step before]."""
    late = (-1 - token_ids).clamp_(min=0)
    return torch.where(token_ids < 0, sampled[late], token_ids)


@contextmanager
def device_errors() -> Iterator[None]:
    """Raises StepOutOfMemory and DeviceLost for torch's errors."""
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        problem = str(error).partition("\n")[0]
    except torch.AcceleratorError as error:  # its context never recovers
        raise DeviceLost(str(error).partition("\n")[0]) from error
    # Out here nothing holds the failed step's tensors any more.
    torch.cuda.empty_cache()
    raise StepOutOfMemory(problem)


class Taken:
    """Tells when a GPU has read the host memory that is filled anew for every step."""

    def __init__(self) -> None:
        self._event: torch.cuda.Event | None = None

    def mark(self, device: torch.device) -> None:
        """All that the device reads for this step has been asked for."""
        if device.type == "cuda":
            self._event = self._event or torch.cuda.Event()
            self._event.record()

    def wait(self) -> None:
        """Until what was marked last has been read: at once, if the step before it is over."""
        if self._event is not None:
            self._event.synchronize()


@dataclass(frozen=True, slots=True, eq=False)
class TorchStep:
    """`sampled` [sampled rows] is on the device; None if nothing was sampled. `tokens` is its copy on
    the host, there once `done` is."""

    sampled: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    distributions: Distributions | None = None
    done: torch.cuda.Event | None = None

    @classmethod
    def of(cls, sampled: torch.Tensor, distributions: Distributions) -> "TorchStep":
        if sampled.device.type != "cuda":
            return cls(sampled, sampled, distributions)
        tokens = torch.empty(sampled.shape, dtype=sampled.dtype, pin_memory=True)
        tokens.copy_(sampled, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return cls(sampled, tokens, distributions, done)

    def result(self) -> StepOutput:
        """See `LaunchedStep`. A step that samples nothing is not waited for: its successors are."""
        if self.done is not None:
            with device_errors():
                self.done.synchronize()
        if self.tokens is None or self.distributions is None:
            return StepOutput(tokens=[])
        tokens: list[int] = self.tokens.tolist()
        return StepOutput(tokens=tokens, logprobs=self.distributions.logprobs(tokens))
