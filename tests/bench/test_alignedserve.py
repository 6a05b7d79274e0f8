"""bench/papers/alignedserve: arms differ in what they say, and a balanced kernel leaves nothing to align."""

from dataclasses import replace

import pytest

from papers.alignedserve import ARMS, AT_ONCE, SHAPES, Figure, Run, gains, hardware_of, simulate

BY_NAME = {arm.name: arm for arm in ARMS}


def run(arm: str, seed: int = 1) -> Figure:
    return simulate(Run(SHAPES[1], BY_NAME[arm], AT_ONCE, 40, seed))


def test_with_a_balanced_kernel_alignment_changes_nothing() -> None:
    plain, aligned = run("balanced"), run("balanced, aligned, 1s")
    assert aligned == replace(plain, arm="balanced, aligned, 1s")
    assert plain.failed_share == 0
    assert plain.tokens_per_s > run("fcfs").tokens_per_s


def test_copies_can_be_taken_for_free() -> None:
    rates = [
        hardware_of(BY_NAME[name]).gpus["h100"].host_gb_per_s
        for name in ("fcfs", "aligned, 1s, no copies")
    ]
    assert rates[1] > 1000 * rates[0]


def test_gains_are_of_the_same_traffic() -> None:
    figure = Figure("s", "fcfs", 1.0, 1, 100.0, 0.1, 0.01, 0.01, 1.0, 1.0, 0.0)
    figures = [
        replace(figure, arm=arm.name, seed=seed, tokens_per_s=(100.0 + seed) * (index + 1))
        for index, arm in enumerate(ARMS)
        for seed in (1, 2)
    ]
    found = gains(figures)
    assert [found[arm.name].mean for arm in ARMS] == pytest.approx(range(1, len(ARMS) + 1))
