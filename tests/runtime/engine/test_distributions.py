"""Log probabilities are the model's own, whatever sampling does to its logits."""

import math
from array import array

import pytest
import torch

from mserve.runtime.engine.distributions import Distributions
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling


def sequence(logprobs: int | None) -> Sequence:
    sampling = Sampling(max_tokens=1, logprobs=logprobs)
    return Sequence(key="s", tokens=array("i", [1]), num_prompt=1, sampling=sampling)


def test_nobody_asks() -> None:
    found = Distributions.of(torch.zeros(2, 5), [sequence(None), sequence(None)])
    assert found.logprobs([1, 2]) == ()


def test_rows_that_ask_get_theirs() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0], [3.0, 2.0, 1.0]])
    found = Distributions.of(logits, [sequence(2), sequence(None), sequence(0)])
    logits.fill_(0.0)  # as a sampler may
    first, second, third = found.logprobs([0, 1, 2])
    assert second is None
    total = math.log(1 + math.e + math.e**2)
    assert first is not None
    assert third is not None
    assert first.chosen == pytest.approx(0 - total, abs=1e-6)
    assert [token for token, _ in first.top] == [2, 1]
    assert [value for _, value in first.top] == pytest.approx([2 - total, 1 - total], abs=1e-6)
    assert third.chosen == pytest.approx(1 - math.log(math.e + math.e**2 + math.e**3), abs=1e-6)
    assert third.top == ()


def test_more_alternatives_than_tokens() -> None:
    (found,) = Distributions.of(torch.zeros(1, 3), [sequence(20)]).logprobs([0])
    assert found is not None
    assert len(found.top) == 3
