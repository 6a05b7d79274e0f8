"""Everything fails at once, drawn from a seed: bench/chaos.py, for a short time always, for longer when asked."""

import random

import pytest

from chaos import chaos, run


def check(seed: int, seconds: float, num_requests: int, strategy: str = "") -> None:
    with chaos(seed, strategy, num_requests) as cluster:
        findings = run(cluster, seconds)
        assert not findings, f"seed {seed}: {findings[0][:4000]}"
        assert sum(cluster.happened.values()) > seconds / 4
        num_whole = sum(seen.is_whole for seen in cluster.seen)
        assert num_whole > seconds, cluster.summary()


def test_nothing_leaks_or_comes_out_wrong() -> None:
    check(seed=7, seconds=3, num_requests=8, strategy="least_loaded")


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_nothing_leaks_or_comes_out_wrong_for_longer() -> None:
    check(random.SystemRandom().randrange(10_000), seconds=60, num_requests=40)
