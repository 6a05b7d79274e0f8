"""Prompts for arrivals: token ids that are equal exactly where the arrivals' blocks are.

Also makes traffic fit a model: lengths are scaled, and clipped to its context. Knows no tokenizer: the
ids mean nothing, they only are in the vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import shake_128

import numpy

from mserve.runtime.traffic.arrivals import Arrival, num_blocks


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids in [low, high). The first ids of vocabularies are special ones; most have 32,000."""

    low: int = 1000
    high: int = 20_000

    def __post_init__(self) -> None:
        assert 0 <= self.low < self.high, "There is an id to draw."

    @classmethod
    def below(cls, high: int) -> "Vocabulary":
        """All but the first ids, of at most `high`."""
        return cls(min(cls().low, high // 2), high)


def prompt_tokens(arrival: Arrival, vocabulary: Vocabulary, seed: int) -> list[int]:
    """`arrival.num_prompt` ids, drawn from `seed` and each block's id, the same on every machine."""
    num_bytes = 4 * arrival.block_tokens
    drawn = [shake_128(f"{seed} {block}".encode()).digest(num_bytes) for block in arrival.blocks]
    words = numpy.frombuffer(b"".join(drawn), dtype="<u4")[: arrival.num_prompt]
    tokens: list[int] = (words % (vocabulary.high - vocabulary.low) + vocabulary.low).tolist()
    return tokens


@dataclass(frozen=True, slots=True)
class Fitted:
    """Arrivals that a model can serve; `num_clipped` of them were longer than its context."""

    arrivals: list[Arrival]
    num_clipped: int


def fitted(arrivals: Iterable[Arrival], scale: float, context: int | None) -> Fitted:
    """Lengths times `scale`, then at most `context` tokens, prompt and answer (None: no limit)."""
    assert scale > 0, "Lengths stay positive."
    shrunk = [arrival if scale == 1 else shrink(arrival, scale) for arrival in arrivals]
    if context is None:
        return Fitted(shrunk, 0)
    fitting = [clip(arrival, context) for arrival in shrunk]
    num_clipped = sum(one is not other for one, other in zip(shrunk, fitting, strict=True))
    return Fitted(fitting, num_clipped)


def shrink(arrival: Arrival, scale: float) -> Arrival:
    """Blocks become shorter or longer, not fewer, so prompts share what they shared; at least a
    token is left of each."""
    block_tokens = max(1, round(arrival.block_tokens * scale))
    num_whole = len(arrival.blocks) - 1
    last = arrival.num_prompt - num_whole * arrival.block_tokens
    num_last = min(block_tokens, max(1, round(last * scale)))
    return replace(
        arrival,
        num_prompt=num_whole * block_tokens + num_last,
        num_output=max(1, round(arrival.num_output * scale)),
        block_tokens=block_tokens,
    )


def clip(arrival: Arrival, context: int) -> Arrival:
    """The arrival itself if it fits; else the prompt's beginning and an answer, as long in
    proportion to each other as they were. `context` in tokens, at least 2."""
    wanted = arrival.num_prompt + arrival.num_output
    if wanted <= context:
        return arrival
    num_prompt = min(context - 1, max(1, context * arrival.num_prompt // wanted))
    return replace(
        arrival,
        num_prompt=num_prompt,
        num_output=min(arrival.num_output, context - num_prompt),
        blocks=arrival.blocks[: num_blocks(num_prompt, arrival.block_tokens)],
    )
