"""The Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Inference only.

Llama and Mistral as they are; Qwen2 adds a bias to q, k and v, Qwen3 a norm of each head's q and k.
The model knows neither pages nor batches: rows are tokens, and attention is a function it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.models.linear import Linear
from mserve.runtime.engine.models.operations import Operations, Rotate, TorchOperations
from mserve.runtime.engine.weights import WeightSource

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim]) -> shaped like q"""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Projections that read the same input are fused: one larger product."""

    input_norm: torch.Tensor  # [hidden]
    qkv: Linear  # hidden -> (heads + 2 * kv_heads) * head_dim
    q_norm: torch.Tensor | None  # [head_dim]
    k_norm: torch.Tensor | None  # [head_dim]
    output: Linear  # heads * head_dim -> hidden
    post_norm: torch.Tensor  # [hidden]
    gate_up: Linear  # hidden -> 2 * intermediate
    down: Linear  # intermediate -> hidden


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    embedding: torch.Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    norm: torch.Tensor  # [hidden]
    head: Linear  # hidden -> vocab; the embedding itself where they are tied

    @classmethod
    def load(cls, config: ModelConfig, checkpoint: WeightSource) -> "LlamaWeights":
        """Raises ConfigError naming the first tensor that is missing or misshapen."""
        embedding_shape = (config.vocab_size, config.hidden_size)
        embedding = checkpoint.tensor("model.embed_tokens.weight", *embedding_shape)
        head = embedding
        if not config.tie_embeddings:
            head = checkpoint.tensor("lm_head.weight", *embedding_shape)
        return cls(
            embedding=embedding,
            layers=[_load_layer(config, checkpoint, i) for i in range(config.num_layers)],
            norm=checkpoint.tensor("model.norm.weight", config.hidden_size),
            head=Linear(head),
        )


class Llama:
    """The computation of one step, given weights and a way to attend."""

    def __init__(
        self, config: ModelConfig, weights: LlamaWeights, operations: Operations | None = None
    ) -> None:
        """`operations` default to torch's own."""
        self.config = config
        self._weights = weights
        self._operations = operations or TorchOperations(config, weights.embedding)
        # A layer ends with the norm that the next one, or the head, begins with.
        self._next_norms = [layer.input_norm for layer in weights.layers[1:]] + [weights.norm]

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """token_ids, positions [rows] -> hidden states [rows, hidden], after the final norm.

        `attend` is called once per layer, in order; it must also store k and v.
        """
        operations, layers = self._operations, self._weights.layers
        rotate = operations.rotation(positions)
        hidden = functional.embedding(token_ids, self._weights.embedding)  # [rows, hidden]
        normed = operations.norm(hidden, layers[0].input_norm)
        for index, layer in enumerate(layers):
            q, k, v = self._qkv(layer, normed, rotate)
            attended = attend(index, q, k, v)  # [rows, heads, head_dim]
            change = layer.output(attended.flatten(1))
            hidden, normed = operations.add_norm(hidden, change, layer.post_norm)
            change = self._mlp(layer, normed)
            hidden, normed = operations.add_norm(hidden, change, self._next_norms[index])
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What `forward` gave for the rows that matter [rows, hidden] -> [rows, vocab]."""
        return self._weights.head(hidden)

    def _qkv(
        self, layer: LayerWeights, x: torch.Tensor, rotate: Rotate
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x [rows, hidden] -> q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim]."""
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        qkv = layer.qkv(x).view(len(x), heads + 2 * kv_heads, self.config.head_dim)
        qk, v = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if layer.q_norm is not None and layer.k_norm is not None:
            norm, q, k = self._operations.norm, qk[:, :heads], qk[:, heads:]
            qk = torch.cat((norm(q, layer.q_norm), norm(k, layer.k_norm)), dim=1)
        qk = rotate(qk)
        return qk[:, :heads], qk[:, heads:], v

    def _mlp(self, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
        """SwiGLU (Shazeer, arXiv 2002.05202): x [rows, hidden] -> [rows, hidden]."""
        return layer.down(self._operations.gate(layer.gate_up(x)))


def _load_layer(config: ModelConfig, checkpoint: WeightSource, index: int) -> LayerWeights:
    hidden, intermediate, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim

    def load(name: str, *shape: int) -> torch.Tensor:
        return checkpoint.tensor(f"model.layers.{index}.{name}", *shape)

    def load_qkv(kind: str, *shape: int) -> torch.Tensor:
        sizes = {"q": q_size, "k": kv_size, "v": kv_size}
        parts = [load(f"self_attn.{n}_proj.{kind}", size, *shape) for n, size in sizes.items()]
        return torch.cat(parts)

    return LayerWeights(
        input_norm=load("input_layernorm.weight", hidden),
        qkv=Linear(load_qkv("weight", hidden), load_qkv("bias") if config.qkv_bias else None),
        q_norm=load("self_attn.q_norm.weight", head_dim) if config.qk_norm else None,
        k_norm=load("self_attn.k_norm.weight", head_dim) if config.qk_norm else None,
        output=Linear(load("self_attn.o_proj.weight", hidden, q_size)),
        post_norm=load("post_attention_layernorm.weight", hidden),
        gate_up=Linear(
            torch.cat(
                [load(f"mlp.{name}_proj.weight", intermediate, hidden) for name in ("gate", "up")]
            )
        ),
        down=Linear(load("mlp.down_proj.weight", hidden, intermediate)),
    )
