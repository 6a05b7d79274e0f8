"""Log probabilities for the requests that want to know them. Knows no text."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Logprobs


@dataclass(frozen=True, slots=True)
class Distributions:
    """The model's distributions of one step, kept before sampling changes its logits.

    `wanted` are pairs (row, number of alternatives); `values` [wanted, vocab] natural logarithms.
    """

    num_rows: int
    wanted: tuple[tuple[int, int], ...]
    values: torch.Tensor | None

    @classmethod
    def of(cls, logits: torch.Tensor, sequences: Items[Sequence]) -> "Distributions":
        """logits [rows, vocab], a row for each sequence."""
        wanted = tuple(
            (row, sequence.sampling.logprobs)
            for row, sequence in enumerate(sequences)
            if sequence.sampling is not None and sequence.sampling.logprobs is not None
        )
        if not wanted:
            return cls(len(sequences), (), None)
        rows = logits[[row for row, _ in wanted]]
        return cls(len(sequences), wanted, rows.float().log_softmax(dim=-1))

    def logprobs(self, tokens: Items[int]) -> tuple[Logprobs | None, ...]:
        """Of the tokens chosen, one per row; empty where nobody asked."""
        if self.values is None:
            return ()
        found: list[Logprobs | None] = [None] * self.num_rows
        chosen = torch.tensor([tokens[row] for row, _ in self.wanted], device=self.values.device)
        own: list[float] = self.values.gather(-1, chosen[:, None]).view(-1).tolist()
        most = min(max(count for _, count in self.wanted), self.values.shape[-1])
        best = self.values.topk(most, dim=-1)
        indices, values = best.indices.tolist(), best.values.tolist()
        for number, (row, count) in enumerate(self.wanted):
            top = zip(indices[number][:count], values[number][:count], strict=True)
            found[row] = Logprobs(own[number], tuple(top))
        return tuple(found)
