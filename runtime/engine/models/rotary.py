"""Rotary positions (Su et al., arXiv 2104.09864): the tables, and their application."""

from math import ceil, floor, log, pi

import torch

from mserve.runtime.engine.rope import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling


def rotary_tables(
    head_dim: int, num_positions: int, theta: float, scaling: RopeScaling | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and signed sin, [num_positions, head_dim] in float32.

    Halves are rotated against each other as in Hugging Face's layout of q and k, not neighbours.
    The sine carries the sign of rotate_half, so that a rotation is x * cos + (x with its halves
    swapped) * sin.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = _scaled(1.0 / theta**exponents, head_dim, theta, scaling)  # [head_dim / 2]
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    factor = _attention_factor(scaling)
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [rows, heads, head_dim]; cos and signed sin [rows, 1, head_dim]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _scaled(
    frequencies: torch.Tensor, head_dim: int, theta: float, scaling: RopeScaling | None
) -> torch.Tensor:
    match scaling:
        case None:
            return frequencies
        case LinearScaling():
            return frequencies / scaling.factor
        case Llama3Scaling():
            share = _share_by_wave(frequencies, scaling)
        case YarnScaling():
            share = _share_by_dimension(head_dim, theta, scaling)
    return frequencies * share + frequencies / scaling.factor * (1 - share)


def _share_by_wave(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """How much of each frequency is kept (Llama 3, arXiv 2407.21783, 3.4.2): nothing of waves longer
    than the original context over `low_freq_factor`, all of those shorter than it over
    `high_freq_factor`, linear between."""
    turns = frequencies * scaling.original_max_positions / (2 * pi)  # in the original context
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return share.clamp(0, 1)


def _share_by_dimension(head_dim: int, theta: float, scaling: YarnScaling) -> torch.Tensor:
    """YaRN, section 3.2: all of dimensions that turn `beta_fast` times in the original context,
    nothing of those that turn `beta_slow` times, linear in the dimension between."""

    def dimension(turns: float) -> float:
        wave = scaling.original_max_positions / (turns * 2 * pi)
        return head_dim * log(wave) / (2 * log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    places = torch.arange(head_dim // 2, dtype=torch.float32)
    return 1 - ((places - low) / max(high - low, 0.001)).clamp(0, 1)


def _attention_factor(scaling: RopeScaling | None) -> float:
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
