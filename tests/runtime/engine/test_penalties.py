"""Bias and penalties against their definitions, and after a request has moved."""

from array import array
from typing import Any

import numpy as np
import pytest
import torch

from mserve.runtime.engine.penalties import penalize
from mserve.runtime.engine.sampler import Sampler, truncated
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

VOCAB = 12
PROMPT, ANSWER = [7, 7, 3], [5, 5, 2, 5]


def sequence(prompt: list[int], answer: list[int], **options: Any) -> Sequence:
    tokens = array("i", [*prompt, *answer])
    sampling = Sampling(max_tokens=100, temperature=0.0, **options)
    return Sequence("s", tokens, len(prompt), sampling=sampling)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, VOCAB, generator=torch.Generator().manual_seed(3))


def penalized(row: torch.Tensor, one: Sequence) -> torch.Tensor:
    changed = row[None].clone()
    penalize(changed, [one])
    return changed[0]


def test_nothing_asked_for_changes_nothing() -> None:
    row = rows(1)[0]
    assert torch.equal(penalized(row, sequence(PROMPT, ANSWER)), row)


def test_frequency_and_presence_count_the_answer_only() -> None:
    row = rows(1)[0]
    one = sequence(PROMPT, ANSWER, frequency_penalty=0.5, presence_penalty=0.25)
    taken = row - penalized(row, one)
    expected = torch.zeros(VOCAB)
    expected[5], expected[2] = 3 * 0.5 + 0.25, 0.5 + 0.25
    torch.testing.assert_close(taken, expected)


def test_repetition_is_that_of_transformers() -> None:
    process = pytest.importorskip("transformers").generation.logits_process
    row = rows(1)
    one = sequence(PROMPT, ANSWER, repetition_penalty=1.7)
    expected = process.RepetitionPenaltyLogitsProcessor(1.7)(
        torch.tensor([[*PROMPT, *ANSWER]]), row.clone()
    )
    torch.testing.assert_close(penalized(row[0], one), expected[0])


def test_bias_is_added_and_unknown_tokens_are_harmless() -> None:
    row = rows(1)[0]
    changed = penalized(row, sequence(PROMPT, [], logit_bias={4: 100.0, 1: -2.5, VOCAB: 9.0}))
    expected = row.clone()
    expected[4] += 100.0
    expected[1] -= 2.5
    torch.testing.assert_close(changed, expected)


def test_a_greedy_choice_obeys_them() -> None:
    def choose(**options: Any) -> int:
        row = torch.zeros(1, VOCAB)
        row[0, 5], row[0, 2], row[0, 9] = 3.0, 2.0, 1.5
        one = sequence(PROMPT, ANSWER, **options)
        return Sampler([], np.random.default_rng(0)).sample(row, [one])[0]

    assert choose() == 5
    assert choose(frequency_penalty=1.0) == 9
    assert choose(presence_penalty=-2.0) == 5
    assert choose(logit_bias={11: 50.0}) == 11


@pytest.mark.parametrize("moved", range(len(ANSWER) + 1))
def test_a_resumed_answer_is_penalised_as_if_nothing_had_happened(moved: int) -> None:
    """The first tokens of the answer come back as the end of the prompt."""
    options = {"frequency_penalty": 0.4, "presence_penalty": 0.3, "repetition_penalty": 1.2}
    row = rows(1)[0]
    undisturbed = penalized(row, sequence(PROMPT, ANSWER, **options))
    resumed = sequence(PROMPT + ANSWER[:moved], ANSWER[moved:], answered=moved, **options)
    assert torch.equal(penalized(row, resumed), undisturbed)


def test_each_row_has_its_own() -> None:
    both = rows(2)
    penalize(both, [sequence(PROMPT, ANSWER), sequence(PROMPT, ANSWER, presence_penalty=1.0)])
    assert torch.equal(both[0], rows(2)[0])
    assert not torch.equal(both[1], rows(2)[1])


def test_min_p_is_that_of_transformers() -> None:
    process = pytest.importorskip("transformers").generation.logits_process
    logits = 3 * rows(3).double()
    shares = [0.0, 0.05, 0.6]
    kept = truncated(logits.softmax(-1), [Sampling(max_tokens=1, min_p=p) for p in shares]) > 0
    for row, share in enumerate(shares):
        expected = process.MinPLogitsWarper(share)(None, logits[row : row + 1])[0] > -torch.inf
        assert torch.equal(kept[row], expected), share
    assert kept.sum(-1).tolist()[0] == VOCAB
