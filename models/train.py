"""Train the small model that ships with mserve and write it in Hugging Face format.

This script owns what a machine writes under ``models/tiny``: the tokenizer, the configuration and
the weights; ``chat_template.jinja`` beside this file is copied in. It needs plain English text with
one paragraph a line, two CPU cores and half an hour. The schedule follows the clock, so a slower
machine sees fewer tokens but still ends well. An untrained model is written first.

    python models/train.py --text books.txt.xz --out models/tiny --minutes 28
"""

import argparse
import json
import lzma
import math
import random
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as functional
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

Weights = dict[str, Tensor]

SPECIAL_TOKENS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": [0, 4], "pad_token_id": 0}
VOCABULARY, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_SIZE, MLP = 2048, 256, 4, 4, 2, 64, 640
ROPE_THETA, MAX_POSITIONS, NORM_EPSILON = 10000.0, 4096, 1e-5

TOKENS_PER_STEP = 4096
CHAT_SHARE = 0.08
# Share of the time at which a sequence length begins. Rotary positions do not extrapolate: a model
# trained at 256 alone writes garbage past 512 tokens, so the last phase covers every position.
LENGTH_PHASES = [(0.0, 256), (0.58, 1024), (0.80, 2048), (0.90, 4096)]
SYSTEM_LINES = ["You are a helpful assistant.", "You tell stories.", "Answer briefly."]
OPENERS = ["Tell me a story.", "Go on.", "What happened next?", "Hello!", "Continue the story."]


def initial_weights() -> Weights:
    """Random weights under the names that transformers gives a Llama model."""
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_SIZE),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }
    weights = {"model.embed_tokens.weight": torch.randn(VOCABULARY, HIDDEN) * 0.02}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, shape in shapes.items():
            residual = name.endswith(("o_proj", "down_proj"))
            deviation = 0.02 / math.sqrt(2 * LAYERS) if residual else 0.02
            weights[f"{prefix}{name}.weight"] = torch.randn(shape) * deviation
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = torch.ones(HIDDEN)
    weights["model.norm.weight"] = torch.ones(HIDDEN)
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def rotary_tables(length: int) -> tuple[Tensor, Tensor]:
    frequency = ROPE_THETA ** (-torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def forward(weights: Weights, tokens: Tensor) -> Tensor:
    """Logits of a Llama model for each position of each row."""
    rows, length = tokens.shape
    hidden = functional.embedding(tokens, weights["model.embed_tokens.weight"])
    hidden = hidden.bfloat16() if torch.is_autocast_enabled("cpu") else hidden
    cosine, sine = (table.to(hidden.dtype) for table in rotary_tables(length))

    def linear(name: str, values: Tensor) -> Tensor:
        return functional.linear(values, weights[f"model.{name}.weight"])

    def normalize(name: str, values: Tensor) -> Tensor:
        # A weight of the input's type keeps the fused kernel under autocast.
        weight = weights[f"model.{name}.weight"].to(values.dtype)
        return functional.rms_norm(values, (HIDDEN,), weight, NORM_EPSILON)

    def split(values: Tensor) -> Tensor:
        return values.view(rows, length, -1, HEAD_SIZE).transpose(1, 2)

    def rotate(heads: Tensor) -> Tensor:
        low, high = heads.chunk(2, dim=-1)
        return heads * cosine + torch.cat((-high, low), dim=-1) * sine

    for layer in (f"layers.{index}" for index in range(LAYERS)):
        inputs = normalize(f"{layer}.input_layernorm", hidden)
        query, key, value = (split(linear(f"{layer}.self_attn.{x}_proj", inputs)) for x in "qkv")
        mixed = functional.scaled_dot_product_attention(
            rotate(query), rotate(key), value, is_causal=True, enable_gqa=True
        )
        mixed = mixed.transpose(1, 2).reshape(rows, length, -1)
        hidden = hidden + linear(f"{layer}.self_attn.o_proj", mixed)
        inputs = normalize(f"{layer}.post_attention_layernorm", hidden)
        gate = functional.silu(linear(f"{layer}.mlp.gate_proj", inputs))
        gate = gate * linear(f"{layer}.mlp.up_proj", inputs)
        hidden = hidden + linear(f"{layer}.mlp.down_proj", gate)
    return linear("embed_tokens", normalize("norm", hidden))


def read_paragraphs(path: Path) -> list[str]:
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as lines:
        return [line.strip() for line in lines if line.strip()]


def train_tokenizer(paragraphs: list[str]) -> Tokenizer:
    """Fit a byte-level BPE that adds no token on its own and decodes to exactly what it read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((paragraph + "\n" for paragraph in paragraphs), trainer)
    return tokenizer


def conversation(paragraphs: list[str], source: random.Random) -> str:
    """Cut neighbouring paragraphs into the turns of a chat."""
    text = ""
    if source.random() < 0.3:
        text += f"<|system|>\n{source.choice(SYSTEM_LINES)}<|end|>\n"
    position = source.randrange(len(paragraphs) - 16)
    for _ in range(source.choice([1, 1, 2, 3])):
        sentences = re.split(r"(?<=[.!?\"]) ", paragraphs[position])
        cut = min(source.choice([1, 1, 2]), len(sentences))
        question, rest = " ".join(sentences[:cut]), " ".join(sentences[cut:])
        if source.random() < 0.3:
            question, rest = source.choice(OPENERS), paragraphs[position]
        following = paragraphs[position + 1 : position + source.choice([2, 3, 4])]
        answer = "\n".join(part for part in (rest, *following) if part)
        text += f"<|user|>\n{question}<|end|>\n<|assistant|>\n{answer}<|end|>\n"
        position += 1 + len(following)
    return text + SPECIAL_TOKENS[0]


class Corpus:
    """Token streams for training and validation, and the batches drawn from them."""

    def __init__(self, paragraphs: list[str], tokenizer: Tokenizer, seed: int) -> None:
        self.source = random.Random(seed)
        kept: list[str] = []
        unseen: list[str] = []
        for index, paragraph in enumerate(paragraphs):
            # Whole runs of paragraphs are held out, so that validation text has its own context.
            (unseen if index // 60 % 50 == 49 else kept).append(paragraph)
        self.unseen_bytes = len("\n".join(unseen).encode())
        self.validation = torch.tensor(tokenizer.encode("\n".join(unseen)).ids)
        stories = [
            "\n".join((*kept[at : at + 50], SPECIAL_TOKENS[0])) for at in range(0, len(kept), 50)
        ]
        self.prose = torch.cat([torch.tensor(item.ids) for item in tokenizer.encode_batch(stories)])
        chats = tokenizer.encode_batch([conversation(kept, self.source) for _ in range(3000)])
        self.chats = torch.cat([torch.tensor(item.ids) for item in chats])
        self.chat_starts = [0, *(at + 1 for at in (self.chats == 0).nonzero()[:-1, 0].tolist())]

    def batch(self, length: int) -> Tensor:
        """Draw rows of ``length + 1`` tokens; a chat row begins where a conversation does."""
        rows = []
        for _ in range(TOKENS_PER_STEP // length):
            if self.source.random() < CHAT_SHARE:
                stream, start = self.chats, self.source.choice(self.chat_starts)
                start = min(start, len(stream) - length - 1)
            else:
                stream, start = self.prose, self.source.randrange(len(self.prose) - length)
            rows.append(stream[start : start + length + 1])
        return torch.stack(rows)


def loss_of(weights: Weights, rows: Tensor, bf16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = forward(weights, rows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


@torch.no_grad()
def validate(weights: Weights, corpus: Corpus, length: int, bf16: bool) -> float:
    """Mean loss in nats per token over the held-out text."""
    rows = corpus.validation.unfold(0, length + 1, length)
    return sum(float(loss_of(weights, row[None], bf16)) for row in rows) / len(rows)


def make_optimizers(weights: Weights) -> list[torch.optim.Optimizer]:
    matrices = [weight for name, weight in weights.items() if "_proj" in name]
    others = [weight for name, weight in weights.items() if "_proj" not in name]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.2),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(weights: Weights, corpus: Corpus, minutes: float, bf16: bool) -> None:
    """Train until the time is up: constant rate for the first half, then linear decay to zero."""
    optimizers = make_optimizers(weights)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began, step, running, reported = time.monotonic(), 0, math.log(VOCABULARY), -1
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        length = max(size for start, size in LENGTH_PHASES if start <= share)
        if int(share * 20) > reported:
            reported = int(share * 20)
            held_out = validate(weights, corpus, 1024 if length > 256 else 256, bf16)
            print(f"{share:4.0%} step {step} len {length} {running:.3f} {held_out:.3f}", flush=True)
        scale = min(1.0, (step + 1) / 50, 2 * (1 - share))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
        loss = loss_of(weights, corpus.batch(length), bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step, running = step + 1, 0.98 * running + 0.02 * loss.item()


def configuration() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": NORM_EPSILON,
        # transformers 4 reads the first of these two, transformers 5 the second.
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **SPECIAL_IDS,
    }


def tokenizer_configuration() -> dict[str, object]:
    template = Path(__file__).with_name("chat_template.jinja")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), SPECIAL_TOKENS[0]),
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": template.read_text(encoding="utf-8").rstrip(),
    }


def export(weights: Weights, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that Hugging Face loaders read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    documents = {
        "config.json": configuration(),
        "generation_config.json": SPECIAL_IDS,
        "tokenizer_config.json": tokenizer_configuration(),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    rounded = {name: weight.detach().bfloat16() for name, weight in weights.items()}
    (folder / "model.safetensors").write_bytes(save(rounded, metadata={"format": "pt"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="plain text or .xz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--minutes", type=float, default=28.0, help="wall clock to train for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--float32", dest="bf16", action="store_false")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    paragraphs = read_paragraphs(options.text)
    tokenizer = train_tokenizer(paragraphs)
    corpus, weights = Corpus(paragraphs, tokenizer, options.seed), initial_weights()
    parameters = sum(weight.numel() for weight in weights.values())
    print(f"{parameters} parameters, {len(corpus.prose)} tokens, {len(corpus.validation)} held out")
    export(weights, tokenizer, options.out)
    train(weights, corpus, options.minutes, options.bf16)
    export(weights, tokenizer, options.out)
    loss = validate(weights, corpus, 1024, options.bf16)
    bits = loss * len(corpus.validation) / corpus.unseen_bytes / math.log(2)
    print(f"validation loss {loss:.3f} nats/token, {bits:.3f} bits/byte")


if __name__ == "__main__":
    main()
