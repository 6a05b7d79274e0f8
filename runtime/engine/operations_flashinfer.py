"""A layer's operations and draws on CUDA: FlashInfer's fused kernels, for 16-bit numbers.

Written against FlashInfer 0.6.6; tests/gpu compares them with torch's on a GPU.
"""

from collections.abc import Sequence as Items

import flashinfer
import torch

from mserve.runtime.engine.launches import upload
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.models.operations import Rotate
from mserve.runtime.engine.models.rotary import rotary_tables
from mserve.runtime.messages import Sampling


class FlashInferOperations:
    """See `Operations`. One kernel each, half of them in place."""

    def __init__(self, config: ModelConfig, like: torch.Tensor) -> None:
        """On the device of `like`."""
        self._config = config
        cos, sin = rotary_tables(
            config.head_dim, config.max_positions, config.rope_theta, config.rope_scaling
        )
        half = config.head_dim // 2
        # [positions, head_dim], float32: cosines of the first half, then sines with a plain sign.
        self._cos_sin = torch.cat((cos[:, :half], sin[:, half:]), dim=1).to(like.device)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = flashinfer.rmsnorm(x, weight, self._config.norm_epsilon)
        return normed

    def add_norm(
        self, hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`change` becomes the norm, `hidden` the sum."""
        flashinfer.fused_add_rmsnorm(change, hidden, weight, self._config.norm_epsilon)
        return hidden, change

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = flashinfer.silu_and_mul(gate_up)
        return gated

    def rotation(self, positions: torch.Tensor) -> Rotate:
        heads, head_dim = self._config.num_heads, self._config.head_dim

        def rotate(qk: torch.Tensor) -> torch.Tensor:
            flashinfer.apply_rope_with_cos_sin_cache_inplace(
                positions, qk[:, :heads], qk[:, heads:], head_dim, self._cos_sin, is_neox=True
            )
            return qk

        return rotate


class FlashInferDraws:
    """Draws without a seed of their own: rejection sampling, which sorts nothing.

    Same distributions as the sampler's, other random numbers.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._generator = torch.Generator(device)
        self._generator.manual_seed(seed)

    def __call__(self, probabilities: torch.Tensor, samplings: Items[Sampling]) -> torch.Tensor:
        """probabilities [rows, vocab] in float32, which add up to 1 -> tokens [rows]."""
        tokens: torch.Tensor
        vocab = probabilities.shape[-1]
        top_k = [one.top_k if one.top_k > 0 else vocab for one in samplings]
        top_p = [one.top_p for one in samplings]
        if all(k >= vocab for k in top_k) and all(p >= 1 for p in top_p):
            tokens = flashinfer.sampling.sampling_from_probs(
                probabilities, generator=self._generator
            )
            return tokens
        tokens = flashinfer.sampling.top_k_top_p_sampling_from_probs(
            probabilities,
            upload(top_k, probabilities.device, torch.int32),
            upload(top_p, probabilities.device, torch.float32),
            filter_apply_order="top_k_first",
            generator=self._generator,
        )
        return tokens
