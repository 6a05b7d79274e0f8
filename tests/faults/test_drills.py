"""Chaos drills on a virtual clock (bench/drills.py): the first seeds; more with MSERVE_DRILLS=5000.

A failed seed prints what happened last; MSERVE_SEED=N plays that one alone.
"""

import os
import subprocess
import sys

import pytest

from drill_scenario import POOLS, draw
from drills import play

NUM_DRILLS = int(os.environ.get("MSERVE_DRILLS", "100"))
ONE_SEED = os.environ.get("MSERVE_SEED")
SEEDS = [int(ONE_SEED)] if ONE_SEED else range(NUM_DRILLS)
PART = 25  # drills per test


@pytest.mark.parametrize("begin", SEEDS[::PART])
@pytest.mark.timeout(600)
def test_nothing_is_lost(begin: int) -> None:
    for seed in [begin] if ONE_SEED else SEEDS[begin : begin + PART]:
        failure = play(seed).failure
        assert not failure, f"MSERVE_SEED={seed}\n{failure}"


def test_the_seeds_cover_strategies_and_faults() -> None:
    scenarios = [draw(seed) for seed in range(100)]
    assert {scenario.strategy for scenario in scenarios} == set(POOLS)
    kinds = {fault.kind for scenario in scenarios for fault in scenario.faults}
    assert kinds == {"kill", "freeze", "freeze_engine", "store"}
    assert any(scenario.noise for scenario in scenarios)
    assert any(scenario.is_calm for scenario in scenarios)
    assert any(a.cancel_s is not None for scenario in scenarios for a in scenario.arrivals)


def test_a_seed_always_plays_the_same() -> None:
    """In one process twice, and in another with other hashes of strings."""
    seeds = (6, 9, 31)
    here = [play(seed).digest for seed in seeds]
    program = f"from drills import play\nprint([play(seed).digest for seed in {seeds}])"
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": sys.path[-1]},
        capture_output=True,
        check=True,
        text=True,
    )
    assert [play(seed).digest for seed in seeds] == here
    assert there.stdout.strip() == str(here)
