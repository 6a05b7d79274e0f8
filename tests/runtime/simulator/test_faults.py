"""Faults as they are written, and the schedule that comes of them."""

from itertools import islice, pairwise

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.faults import (
    Kill,
    RandomFaults,
    Restart,
    TimedFault,
    fault,
    schedule,
)

WORKERS = ("prefill-0", "decode-0", "decode-1")
OFTEN = RandomFaults(every_s=2.0, repair_s=5.0)


def drawn(seed: int, num: int = 200, workers: tuple[str, ...] = WORKERS) -> list[TimedFault]:
    return list(islice(schedule([OFTEN], workers, seed), num))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("kill decode-1 at 30s", Kill("decode-1", 30.0)),
        ("  restart decode-1  at  2min ", Restart("decode-1", 120.0)),
        ("random:every=1h,repair=90s", RandomFaults(3600.0, 90.0)),
        ("kill decode-1 at 0", Kill("decode-1", 0.0)),
        ("random: repair=30s , every=500ms", RandomFaults(0.5, 30.0)),
    ],
)
def test_what_faults_read_like(text: str, meant: Kill | Restart | RandomFaults) -> None:
    assert fault(text) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("burn decode-1", "'kill WORKER at TIME', 'restart WORKER at TIME' or 'random:every"),
        ("kill decode-1", "kill WORKER at TIME"),
        ("kill decode-1 at noon", "a duration as 500ms"),
        ("random", "random:every=60s,repair=30s"),
        ("random:every=1s", "lacks `repair`: add it, as `repair=30s`"),
        ("random:evry=1s,repair=1s", "not 'evry=1s'"),
        ("random:every=1s,every=1s", "`every` and `repair` once"),
        ("random:every=0s,repair=1s", "random:every must be above 0"),
        ("kill decode-1 at 30", "--fault: 30 what. Write 30ms or 30s"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fault(text)


def test_timed_faults_are_put_in_order() -> None:
    given: list[TimedFault] = [
        Restart("decode-0", 60.0),
        Kill("decode-0", 30.0),
        Kill("decode-1", 45.0),
    ]
    assert list(schedule(given, WORKERS)) == [given[1], given[2], given[0]]


def test_timed_and_random_faults_mix_in_the_order_of_time() -> None:
    given: list[TimedFault | RandomFaults] = [
        Kill("prefill-0", 10.0),
        OFTEN,
        Restart("prefill-0", 20.0),
        OFTEN,
    ]
    times = [each.at_s for each in islice(schedule(given, WORKERS), 50)]
    assert times == sorted(times)
    assert {10.0, 20.0} <= set(times)


def test_a_fault_needs_a_worker_that_is_there() -> None:
    listed = "it has prefill-0, decode-0 to decode-1"
    with pytest.raises(ConfigError, match=f"no worker 'decode-9' for a fault; {listed}"):
        schedule([Kill("decode-9", 1.0)], WORKERS)
    with pytest.raises(ConfigError, match="'decod-1' for a fault; did you mean 'decode-1'"):
        schedule([Kill("decod-1", 1.0)], WORKERS)


def test_random_faults_are_those_of_their_seed() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    twice = list(islice(schedule([OFTEN, OFTEN], WORKERS, 1), 400))
    assert len({each.at_s for each in twice}) == 400


def test_random_faults_come_as_often_as_they_say() -> None:
    few = schedule([RandomFaults(every_s=10.0, repair_s=0.1)], WORKERS, 3)
    faults = list(islice(few, 1000))
    assert faults[-1].at_s / len(faults) == pytest.approx(10.0, rel=0.1)
    for worker in WORKERS:
        share = sum(each.worker == worker for each in faults) / len(faults)
        assert share == pytest.approx(1 / len(WORKERS), rel=0.15)


def test_nobody_dies_while_being_repaired() -> None:
    faults = drawn(7)
    for worker in WORKERS:
        times = [each.at_s for each in faults if each.worker == worker]
        assert all(later - earlier >= OFTEN.repair_s for earlier, later in pairwise(times))
    alone = drawn(7, workers=("workers-0",))
    assert min(b.at_s - a.at_s for a, b in pairwise(alone)) >= OFTEN.repair_s
