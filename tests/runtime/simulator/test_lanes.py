"""Lanes add up to what workers were busy, name what was done, and choose where workers are many."""

import math
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.cli.strategies import checked, compiled_text
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.sequence import Sequence as Answer
from mserve.runtime.simulator.faults import Kill, Restart, TimedFault
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.lanes import (
    LaneRecorder,
    kind_of,
    lanes_of_each,
    pick,
    shared_out,
)
from mserve.runtime.simulator.pools import WorkerOptions, plan_workers
from mserve.runtime.simulator.results import Happened, Result, WorkerUse
from mserve.runtime.simulator.runs import Run
from mserve.runtime.simulator.simulation import Listeners, Simulation
from mserve.runtime.traffic.lanes import Lane
from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.spec import traffic

FAULTS: Sequence[TimedFault] = [Kill("decode-1", 1.0), Restart("decode-1", 4.0)]


def simulated(recorder: LaneRecorder | None, faults: Sequence[TimedFault] = ()) -> Result:
    chosen = compiled_text("prefill_decode", checked("prefill_decode"))
    assert chosen is not None, "shipped strategies compile"
    counts = {"prefill": 2, "decode": 2}
    specs = plan_workers(chosen.pools, counts, WorkerOptions(), load_hardware())
    listeners = Listeners() if recorder is None else Listeners([recorder.record])
    run = Simulation(chosen, specs, faults=faults, listeners=listeners)
    return run.run(traffic("poisson:rate=20,input=2000,output=30,num=120", seed=1))


def used(busy_s: Sequence[float], pool: str = "p") -> list[WorkerUse]:
    return [WorkerUse(f"{pool}-{n}", pool, busy_s=each) for n, each in enumerate(busy_s)]


def recorded(busy_s: Sequence[float]) -> LaneRecorder:
    """Decode from second 0 on."""
    recorder = LaneRecorder()
    batch = Batch((), (Answer("a", array("i", [1]), 1),))
    for number, each in enumerate(busy_s):
        recorder.record(f"p-{number}", Run(batch, 0.0, each, 0.0, 1), each)
    return recorder


def busy_s(lane: Lane) -> float:
    return math.fsum(second for each in lane.busy_s.values() for second in each)


# --- what is gathered ---------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [(), FAULTS])
def test_a_lane_adds_up_to_the_workers_busy_time(faults: Sequence[TimedFault]) -> None:
    recorder = LaneRecorder()
    result = simulated(recorder, faults)
    lanes = {lane.name: lane for lane in recorder.lanes(result).all()}
    assert list(lanes) == ["prefill-0", "prefill-1", "decode-0", "decode-1"]
    for worker in result.workers:
        assert worker.busy_s > 0.1
        assert busy_s(lanes[worker.name]) == pytest.approx(worker.busy_s, abs=1e-9)
    assert sum(lanes["prefill-0"].busy_s["decode"]) == 0.0
    assert sum(lanes["decode-0"].busy_s["decode"]) > sum(lanes["decode-0"].busy_s["prefill"]) > 0


def test_no_bin_is_busier_than_it_is_long() -> None:
    recorder = LaneRecorder()
    lanes = recorder.lanes(simulated(recorder, FAULTS))
    for lane in lanes.all():
        for in_bin in zip(*lane.busy_s.values(), strict=True):
            assert sum(in_bin) <= lanes.width_s * (1 + 1e-9)


def test_who_listens_changes_nothing() -> None:
    assert simulated(LaneRecorder(), FAULTS).digest == simulated(None, FAULTS).digest


def test_kinds_of_steps() -> None:
    answer = Answer("a", array("i", [1, 2]), 2)
    chunk = Chunk(answer, 0, 2, True)
    assert kind_of(Batch((chunk,), (answer,))) == "prefill"
    assert kind_of(Batch((), (answer,))) == "decode"
    assert kind_of(Batch((), ())) == "moves"


def test_faults_are_in_the_lanes_of_their_workers() -> None:
    faults = [
        Happened("kill", "p-0", 1.0),
        Happened("kill", "p-1", 2.0),
        Happened("restart", "p-0", 3.0),
        Happened("kill", "p-0", 5.0),
    ]
    first, second = LaneRecorder().lanes(Result(workers=used([0, 0]), faults=faults)).all()
    assert [(mark.at, mark.words) for mark in first.marks] == [
        (1.0, "kill"),
        (3.0, "restart"),
        (5.0, "kill"),
    ]
    assert first.dead == [(1.0, 3.0), (5.0, math.inf)]
    assert second.dead == [(2.0, math.inf)]


# --- what is shown ------------------------------------------------------------------------------


def test_many_workers_are_the_busiest_the_mean_of_the_others_and_the_idlest() -> None:
    busy = [1.0, 9.0, 5.0, 7.0, 3.0, 6.0]
    faults = [Happened("kill", "p-2", 1.0)]
    result = Result([Outcome(0, 1, 10, 1, 1)], workers=used(busy), faults=faults)
    (pool,) = recorded(busy).lanes(result, max_lanes=4).pools
    assert [lane.name for lane in pool.lanes] == ["p-1", "p-3", "mean of 3 others", "p-0"]
    assert [busy_s(lane) for lane in pool.lanes] == pytest.approx([9, 7, (6 + 5 + 3) / 3, 1])
    assert [mark.words for mark in pool.lanes[2].marks] == ["kill p-2"]
    assert pool.title == "p: the 2 busiest and the idlest of 6 workers"


def test_where_there_is_hardly_any_room_there_is_a_mean() -> None:
    result = Result(workers=used([2.0, 4.0, 6.0]))
    (pool,) = recorded([2.0, 4.0, 6.0]).lanes(result, max_lanes=2).pools
    (lane,) = pool.lanes
    assert lane.name == "mean of 3"
    assert busy_s(lane) == pytest.approx(4.0)
    assert pool.title == "p: 3 workers, their mean"


@given(st.lists(st.floats(0, 10), min_size=1), st.integers(1, 20))
def test_every_worker_is_shown_or_in_the_mean(busy: list[float], room: int) -> None:
    workers = used(busy)
    found = pick(workers, room)
    assert len(found.all_shown) + bool(found.others) <= room
    everyone = [*found.busiest, *found.others, *found.idlest]
    assert sorted(worker.name for worker in everyone) == sorted(worker.name for worker in workers)
    if found.others:
        order = [worker.busy_s for worker in everyone]
        assert found.busiest == () or order == sorted(order, reverse=True)


@given(st.dictionaries(st.text(), st.integers(1, 100), min_size=1), st.integers(1, 40))
def test_lanes_are_shared_out(sizes: dict[str, int], room: int) -> None:
    found = shared_out(sizes, room)
    assert found.keys() == sizes.keys()
    assert all(1 <= found[name] <= sizes[name] for name in sizes)
    assert sum(found.values()) <= max(room, len(sizes))
    if sum(sizes.values()) <= room:
        assert found == sizes


def test_small_pools_leave_room_for_large_ones() -> None:
    assert shared_out({"large": 50, "small": 2, "larger": 90}, 16) == {
        "small": 2,
        "large": 7,
        "larger": 7,
    }


def test_pages_of_many_runs_have_few_lanes_of_each() -> None:
    assert [lanes_of_each(num) for num in (1, 3, 10, 50)] == [16, 16, 4, 0]
