"""Answers that must keep to a grammar: which tokens each may go on with.

Owns a matcher for each such sequence. A matcher can always be made anew from the answer so far, so
a request that moved, was resumed or preempted goes on where it was.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.grammar import Matcher, Vocabulary

MAX_MATCHERS = 256


class Constraints:
    """`load` gives the model's vocabulary when the first grammar comes."""

    def __init__(self, load: Callable[[], Vocabulary]) -> None:
        self._load = load
        self._vocabulary: Vocabulary | None = None
        self._matchers: OrderedDict[tuple[str, str], Matcher] = OrderedDict()

    def apply(self, row: torch.Tensor, sequence: Sequence, ends: list[int]) -> None:
        """Bans in row [vocab] what the sequence's grammar does not allow next. Where it allows only
        the end, one of `ends` is left, whatever else was banned before."""
        matcher = self._matcher(sequence)
        allowed = matcher.allowed()
        if matcher.is_over or not allowed.any():
            row.fill_(-torch.inf)
            row[ends] = 0.0
            return
        if allowed.sum() <= len(ends) and allowed[ends].sum() == allowed.sum():
            row[ends] = torch.maximum(row[ends], torch.zeros_like(row[ends]))
        row.masked_fill_(torch.from_numpy(~allowed[: len(row)]).to(row.device), -torch.inf)

    def _matcher(self, sequence: Sequence) -> Matcher:
        """Up to date with the sequence's answer."""
        sampling = sequence.sampling
        assert sampling is not None, f"{sequence.key} has a grammar without sampling"
        begin = sequence.num_prompt - sampling.answered
        key = (sequence.key, sampling.grammar)
        matcher = self._matchers.pop(key, None)
        if matcher is None or begin + matcher.num_tokens > len(sequence.tokens):
            matcher = self._new(sampling.grammar)
        matcher.advance(np.asarray(sequence.tokens[begin + matcher.num_tokens :]).tolist())
        self._matchers[key] = matcher
        if len(self._matchers) > MAX_MATCHERS:
            self._matchers.popitem(last=False)
        return matcher

    def _new(self, grammar: str) -> Matcher:
        if self._vocabulary is None:
            self._vocabulary = self._load()
        return self._vocabulary.matcher(grammar)
