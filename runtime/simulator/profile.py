"""What `mserve calibrate` found out about a cluster's workers, as a file: costs, limits and every point
that they were fitted to. Knows neither how it was measured nor how steps are priced with it.
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError

Seconds = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
MAX_ERROR = 0.05  # of a profile that is to be trusted
Count = Annotated[int, Meta(ge=1)]


class StepCosts(Struct, frozen=True, forbid_unknown_fields=True):
    """A step without prompts takes `decode_base_s`, one with them `prefill_base_s`; to which come the
    other terms of what is in it. All in seconds."""

    prefill_base_s: Seconds
    prefill_token_s: Seconds
    prefill_pair_s: Seconds  # per (query, key) pair: the quadratic part
    decode_base_s: Seconds
    decode_sequence_s: Seconds
    decode_context_s: Seconds  # per position that a decoding sequence attends to


class RequestCosts(Struct, frozen=True, forbid_unknown_fields=True):
    """What a request takes beside its steps: HTTP, tokens in and out, placement. In seconds."""

    base_s: Seconds
    token_s: Seconds  # per prompt token

    def time(self, num_prompt: int) -> float:
        return self.base_s + self.token_s * num_prompt


class LinkCosts(Struct, frozen=True, forbid_unknown_fields=True):
    """What moves KV from worker to worker, as the workers say."""

    base_s: Seconds
    bytes_per_s: Positive
    kv_bytes_per_token: Count  # all layers
    num_layers: Count


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Of each worker's engine. In tokens unless named otherwise."""

    num_pages: Count  # of KV
    page_size: Count
    max_model_len: Count
    max_batch_tokens: Count
    chunk_tokens: Count
    max_running: Count  # sequences in a step


class PromptPoint(Struct, frozen=True, forbid_unknown_fields=True):
    """A request that was alone: its time to the first token."""

    num_tokens: int
    cached: int
    num_sends: int  # transfers of KV in its plan
    ttft_s: float


class MixedPoint(Struct, frozen=True, forbid_unknown_fields=True):
    """A step in which a whole prompt was computed beside `num_decodes` answers of `context` tokens
    each, seen as a pause in these."""

    num_tokens: int
    num_decodes: int
    context: float
    step_s: float


class DecodePoint(Struct, frozen=True, forbid_unknown_fields=True):
    """Steps in which only `batch` sequences decoded, of `context` tokens on average."""

    batch: int
    context: float
    num_steps: int
    step_s: float  # their mean


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """`reported` is what the workers tell their router, drift included. `error` is how far the fitted
    costs are from the points on average, as a share."""

    model: str
    strategy: str  # with which it was measured
    gpus: Count  # of each worker
    steps: StepCosts
    request: RequestCosts
    link: LinkCosts
    limits: Limits
    reported: CostProfile
    prompt_error: float
    decode_error: float
    prompts: tuple[PromptPoint, ...]
    mixed: tuple[MixedPoint, ...]
    decodes: tuple[DecodePoint, ...]
    notes: tuple[str, ...] = ()
    version: Annotated[int, Meta(ge=1, le=1)] = 1  # of this form

    @property
    def doubt(self) -> str:
        """Why not to trust it, without the full stop; "" where it fits what was measured."""
        errors = {"prompts": self.prompt_error, "answers": self.decode_error}
        off = [f"{name} by {error:.1%}" for name, error in errors.items() if error > MAX_ERROR]
        return f"the profile is off what was measured, of {' and of '.join(off)}" if off else ""


def read_profile(path: Path) -> Profile:
    """Raises ConfigError naming what is wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no profile of `mserve calibrate`: {error}.") from None


def write_profile(path: Path, profile: Profile) -> None:
    """Raises ConfigError."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
