"""Logits to tokens: greedy, temperature, top-k, top-p, min-p, seeds and the ban on early ends.

A draw depends on the row's logits, the request's seed and the token's position, and on nothing else
in the batch. Knows nothing of text.
"""

import struct
from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import torch
from xxhash import xxh3_64_intdigest

from mserve.runtime.engine.constraints import Constraints
from mserve.runtime.engine.launches import upload
from mserve.runtime.engine.penalties import penalize
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

_GREEDY_BELOW = 1e-5
"""Temperatures from here down leave the most probable token alone, and would overflow."""


_LEAST_FAST_TOP_P = 1e-6

_WARM_UPS = (Sampling(max_tokens=1), Sampling(max_tokens=1, top_p=0.9))
"""One for each kernel that a device draws with."""

Draws = Callable[[torch.Tensor, Items[Sampling]], torch.Tensor]
"""A device's own way to draw: (probabilities [rows, vocab], float32; top-k and top-p of each row) ->
tokens [rows]"""


class Sampler:
    """Chooses the next token of each row. `generator` serves the requests without a seed, or
    `unseeded` where given; `constraints` those whose answer must have a form."""

    def __init__(
        self,
        eos_ids: Items[int],
        generator: np.random.Generator,
        constraints: Constraints | None = None,
        unseeded: Draws | None = None,
    ) -> None:
        self._eos_ids = tuple(eos_ids)
        self._generator = generator
        self._constraints = constraints
        self._unseeded = unseeded

    def warm_up(self, vocab_size: int, device: torch.device) -> None:
        """Draws in all of the device's own ways: a library loads, or compiles, each of its kernels
        when it is first used, and no request shall wait for that."""
        if self._unseeded is None:
            return
        probabilities = torch.full((1, vocab_size), 1 / vocab_size, device=device)
        for sampling in _WARM_UPS:
            self._unseeded(probabilities, [sampling])

    def sample(self, logits: torch.Tensor, sequences: Items[Sequence]) -> list[int]:
        """logits [rows, vocab], which this may overwrite -> one token per row."""
        tokens: list[int] = self.choose(logits, sequences).tolist()
        return tokens

    def choose(self, logits: torch.Tensor, sequences: Items[Sequence]) -> torch.Tensor:
        """The same: [rows], on the device of the logits, which nobody waits for if it can be."""
        samplings = [sampling_of(sequence) for sequence in sequences]
        penalize(logits, sequences)
        for row, (sequence, sampling) in enumerate(zip(sequences, samplings, strict=True)):
            if sequence.num_output < sampling.min_tokens:
                logits[row, self._ends(sampling, logits.shape[-1])] = -torch.inf
            if sampling.grammar:
                assert self._constraints is not None, "a grammar needs the model's vocabulary"
                self._constraints.apply(logits[row], sequence, list(self._eos_ids))
        tokens = logits.argmax(dim=-1)
        drawn = [
            row for row, sampling in enumerate(samplings) if sampling.temperature > _GREEDY_BELOW
        ]
        fast = {row for row in drawn if self._is_fast(samplings[row])}
        for rows, draw in (
            (sorted(fast), self._draw_unseeded),
            ([row for row in drawn if row not in fast], self._draw),
        ):
            if rows:
                index = upload(rows, logits.device)
                draws = draw(logits[index], [sequences[row] for row in rows])
                tokens.index_copy_(0, index, draws.to(tokens.dtype))
        return tokens

    def _is_fast(self, sampling: Sampling) -> bool:
        """Whether the device draws it alike: rejection sampling never ends with a top-p that is 0 in
        float32."""
        is_simple = (
            sampling.seed is None and not sampling.min_p and sampling.top_p >= _LEAST_FAST_TOP_P
        )
        return self._unseeded is not None and is_simple

    def _draw_unseeded(self, logits: torch.Tensor, sequences: Items[Sequence]) -> torch.Tensor:
        assert self._unseeded is not None, "no row is fast without a device's way to draw"
        samplings = [sampling_of(sequence) for sequence in sequences]
        temperatures = _column([sampling.temperature for sampling in samplings], logits)
        scaled = logits.float() / temperatures.float()
        return self._unseeded(scaled.softmax(dim=-1), samplings)

    def _ends(self, sampling: Sampling, vocab: int) -> list[int]:
        eos_ids = () if sampling.ignore_eos else self._eos_ids
        return [token for token in (*eos_ids, *sampling.stop_token_ids) if 0 <= token < vocab]

    def _draw(self, logits: torch.Tensor, sequences: Items[Sequence]) -> torch.Tensor:
        """Inverse-CDF sampling. Candidates keep the vocabulary's order: sorted by probability, two
        near equals could change places with a rounding error and a fixed draw would hit the other.
        """
        samplings = [sampling_of(sequence) for sequence in sequences]
        temperatures = _column([sampling.temperature for sampling in samplings], logits)
        probabilities = truncated((logits.double() / temperatures).softmax(dim=-1), samplings)
        cumulative = probabilities.cumsum(dim=-1)
        uniform = [self._uniform(sequence) for sequence in sequences]
        # The total stands in for 1, so nothing is renormalised; the draw is below it, hence on a
        # token of positive probability.
        draws = _column(uniform, logits) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, draws, right=True).view(-1)

    def _uniform(self, sequence: Sequence) -> float:
        """In [0, 1). The position is the token's in the whole sequence, so that a request that is
        moved or resumed with what it has generated goes on with the same draws."""
        seed = sampling_of(sequence).seed
        if seed is None:
            return float(self._generator.random())
        return seeded_uniform(seed, len(sequence.tokens))


def sampling_of(sequence: Sequence) -> Sampling:
    assert sequence.sampling is not None, f"{sequence.key} is sampled but generates nothing"
    return sequence.sampling


def seeded_uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits: a hash as a counter-based generator."""
    counter = struct.pack("<QQ", seed & (1 << 64) - 1, position)
    return (xxh3_64_intdigest(counter) >> 11) / (1 << 53)


def truncated(probabilities: torch.Tensor, samplings: Items[Sampling]) -> torch.Tensor:
    """probabilities [rows, vocab] with those outside each row's min-p, top-k and top-p set to 0.

    Min-p keeps what has at least that share of the most probable token's (arXiv 2407.01082).
    Top-p keeps the fewest of the top-k whose share of the top-k's probability reaches p (Holtzman
    et al., arXiv 1904.09751). The first is always kept, and what equals the last one kept is too.
    """
    probabilities = _without_unlikely(probabilities, samplings)
    rows = [row for row, one in enumerate(samplings) if one.top_k > 0 or one.top_p < 1]
    if not rows:
        return probabilities
    vocab = probabilities.shape[-1]
    top_k = [samplings[row].top_k for row in rows]
    limits = _column([k if k > 0 else vocab for k in top_k], probabilities)
    shares = _column([samplings[row].top_p for row in rows], probabilities)
    index = upload(rows, probabilities.device)
    chosen = probabilities[index]
    ordered = _descending(chosen)
    ranks = torch.arange(vocab, device=chosen.device)
    ordered = ordered.masked_fill(ranks >= limits, 0.0)
    before = ordered.cumsum(dim=-1) - ordered
    kept = (ranks < limits) & (before < shares * ordered.sum(dim=-1, keepdim=True))
    last = kept.sum(dim=-1, keepdim=True).clamp_(min=1) - 1  # [chosen, 1]
    chosen = chosen.masked_fill(chosen < ordered.gather(-1, last), 0.0)
    return probabilities.index_copy(0, index, chosen)


def _without_unlikely(probabilities: torch.Tensor, samplings: Items[Sampling]) -> torch.Tensor:
    if not any(one.min_p > 0 for one in samplings):
        return probabilities
    least = _column([one.min_p for one in samplings], probabilities)
    least = least * probabilities.amax(dim=-1, keepdim=True)
    return probabilities.masked_fill(probabilities < least, 0.0)


def _descending(rows: torch.Tensor) -> torch.Tensor:
    """Each row's values, the largest first. On a CPU numpy sorts 16 rows of 2,048 in 40 us and
    torch, which also sorts indices, in 1,500."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.sort(rows.numpy(), axis=-1)).flip(-1)
    return rows.sort(dim=-1, descending=True).values


def _column(values: list[float] | list[int], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1] in float64 on the device of `like`."""
    return upload(values, like.device, torch.float64)[:, None]
