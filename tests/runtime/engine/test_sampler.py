"""What a draw depends on, and that draws follow the distribution asked for."""

from array import array
from typing import Any

import numpy as np
import pytest
import torch

from mserve.runtime.engine.sampler import Sampler, seeded_uniform, truncated
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

EOS = 2
PROBABILITIES = [0.02, 0.4, 0.0, 0.25, 0.18, 0.1, 0.05]


def sampler(seed: int = 0) -> Sampler:
    return Sampler([EOS], np.random.default_rng(seed))


def sequence(num_output: int = 0, **options: Any) -> Sequence:
    tokens = array("i", [5] * (3 + num_output))
    return Sequence("s", tokens, 3, sampling=Sampling(max_tokens=100, **options))


def logits(rows: int) -> torch.Tensor:
    return torch.tensor(PROBABILITIES).log().repeat(rows, 1)


def shares(draws: list[int]) -> list[float]:
    return [draws.count(token) / len(draws) for token in range(len(PROBABILITIES))]


def test_temperature_zero_takes_the_most_probable() -> None:
    rows = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    sequences = [sequence(temperature=0.0) for _ in range(5)]
    assert sampler().sample(rows.clone(), sequences) == rows.argmax(-1).tolist()


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0.0}, {"temperature": 1e-300}]
)
def test_truncation_to_one_token_is_greedy(options: dict[str, Any]) -> None:
    rows = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    sequences = [sequence(**{"temperature": 2.0, **options}) for _ in range(5)]
    assert sampler().sample(rows.clone(), sequences) == rows.argmax(-1).tolist()


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"top_k": -1}, PROBABILITIES),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0, 0]),
        ({"top_p": 0.7}, [0, 0.4 / 0.83, 0, 0.25 / 0.83, 0.18 / 0.83, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0, 0]),
        ({"temperature": 0.5}, [p * p / 0.2678 for p in PROBABILITIES]),
    ],
)
def test_draws_follow_the_distribution(
    seeded: bool, options: dict[str, Any], expected: list[float]
) -> None:
    """Within five standard deviations, over one position of 6,000 seeds."""
    count = 6_000
    assert sum(expected) == pytest.approx(1, abs=0.002)
    sequences = [sequence(seed=i if seeded else None, **options) for i in range(count)]
    found = shares(sampler().sample(logits(count), sequences))
    for token, share in enumerate(expected):
        deviation = (share * (1 - share) / count) ** 0.5
        assert found[token] == pytest.approx(share, abs=5 * deviation + 0.002), token


def test_successive_positions_of_one_seed_are_independent() -> None:
    draws = [seeded_uniform(9, position) for position in range(5000)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(draws[:-1], draws[1:])[0, 1] == pytest.approx(0, abs=0.06)


def test_a_seeded_draw_does_not_depend_on_the_batch() -> None:
    rows = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    mixed = [
        sequence(seed=1, temperature=1.3),
        sequence(temperature=0.0),
        sequence(temperature=1.0),
        sequence(seed=2, top_p=0.8),
        sequence(seed=3, top_k=7),
        sequence(seed=-4),
        sequence(seed=1 << 70, num_output=4),
        sequence(seed=5, top_k=7, top_p=0.5),
    ]
    together = sampler().sample(rows.clone(), mixed)
    for row, one in enumerate(mixed):
        assert one.sampling is not None
        if one.sampling.seed is not None:
            assert sampler(99).sample(rows[row : row + 1].clone(), [one]) == [together[row]]


def test_a_resumed_sequence_goes_on_with_the_same_draws() -> None:
    """What was generated elsewhere comes back as prompt."""
    rows = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    before = sequence(seed=8, num_output=6)
    after = Sequence("s", before.tokens, len(before.tokens), sampling=before.sampling)
    draw = sampler().sample(rows.clone(), [before])
    assert sampler().sample(rows.clone(), [after]) == draw
    assert sampler().sample(rows.clone(), [sequence(seed=8, num_output=7)]) != draw


def test_without_a_seed_the_generator_decides() -> None:
    rows = torch.zeros(4, 10_000)
    sequences = [sequence() for _ in range(4)]
    assert sampler(1).sample(rows.clone(), sequences) == sampler(1).sample(rows.clone(), sequences)
    assert sampler(1).sample(rows.clone(), sequences) != sampler(2).sample(rows.clone(), sequences)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_before_min_tokens(temperature: float) -> None:
    def draw(num_output: int, **options: Any) -> int:
        rows = torch.zeros(1, 7)
        rows[0, EOS], rows[0, 4], rows[0, 1] = 300.0, 200.0, 100.0
        one = sequence(num_output, temperature=temperature, min_tokens=3, **options)
        return sampler().sample(rows, [one])[0]

    assert [draw(n) for n in (0, 2, 3)] == [4, 4, EOS]
    assert [draw(n, stop_token_ids=(4,)) for n in (0, 2, 3)] == [1, 1, EOS]
    assert draw(0, ignore_eos=True) == EOS
    assert draw(0, stop_token_ids=(-1, 7, 1 << 40)) == 4, (
        "ids outside of the vocabulary are harmless"
    )


def test_truncation_is_that_of_transformers() -> None:
    warpers = pytest.importorskip("transformers").generation.logits_process
    rows = 3 * torch.randn(6, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samplings = [
        Sampling(max_tokens=1, top_k=top_k, top_p=top_p)
        for top_k, top_p in [(0, 1.0), (5, 1.0), (0, 0.9), (20, 0.5), (500, 0.99), (1, 0.1)]
    ]
    kept = truncated(rows.softmax(-1), samplings) > 0
    for row, sampling in enumerate(samplings):
        scores = rows[row : row + 1]
        if sampling.top_k:
            scores = warpers.TopKLogitsWarper(sampling.top_k)(None, scores)
        if sampling.top_p < 1:
            scores = warpers.TopPLogitsWarper(sampling.top_p)(None, scores)
        assert torch.equal(kept[row], scores[0] > -torch.inf), sampling


def test_a_devices_ways_to_draw_are_warm_before_the_first_request() -> None:
    """Each kernel is loaded when it is first used; the plain draw and the truncated one are two."""
    warmed: list[tuple[float, tuple[int, ...], float]] = []

    def draw(probabilities: torch.Tensor, samplings: Any) -> torch.Tensor:
        total = float(probabilities.sum())
        warmed.append((samplings[0].top_p, tuple(probabilities.shape), round(total, 4)))
        return probabilities.argmax(-1)

    cpu = torch.device("cpu")
    Sampler([EOS], np.random.default_rng(0), unseeded=draw).warm_up(50, cpu)
    assert warmed == [(1.0, (1, 50), 1.0), (0.9, (1, 50), 1.0)]
    sampler().warm_up(50, cpu)
