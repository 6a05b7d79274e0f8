"""Workers that die and come back in a simulation: nothing is lost, and everything can be repeated."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import pytest

from mserve.compiler.pipeline import CompiledStrategy
from mserve.runtime.cli.strategies import checked, compiled_text
from mserve.runtime.cluster.membership import HEARTBEAT_TIMEOUT_S
from mserve.runtime.simulator.faults import Kill, RandomFaults, Restart, schedule
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.loop import Deadlock
from mserve.runtime.simulator.pools import WorkerOptions, plan_workers
from mserve.runtime.simulator.results import Happened, Result
from mserve.runtime.simulator.runs import Run, RunDriver
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.arrivals import Arrival, unlike_any
from mserve.runtime.traffic.spec import traffic

NUM_REQUESTS = 40
SHARED = f"preble-toolbench:rate=6,num={NUM_REQUESTS},zipf=1.1"
EVEN = "poisson:rate=10,input=600,output=20,num=80"
OPTIONS = WorkerOptions(page_size=64)
PAIR = {"prefill": 2, "decode": 2}
CLUSTERS: Mapping[str, Mapping[str, int]] = {
    "prefill_decode": PAIR,
    "balanced": PAIR,
    "preble": {"workers": 3},
    "deflect": PAIR,
}
HONEST = {"", "worker_lost_error", "unavailable_error"}  # what requests may end with
Faults: TypeAlias = Iterable[Kill | Restart | RandomFaults]


def strategy(name: str) -> CompiledStrategy:
    found = compiled_text(name, checked(name))
    assert found is not None, "shipped strategies compile"
    return found


def simulate(
    name: str,
    arrivals: Iterable[Arrival],
    faults: Faults,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Result:
    chosen = strategy(name)
    specs = plan_workers(chosen.pools, counts or CLUSTERS[name], OPTIONS, load_hardware())
    planned = schedule(list(faults), [spec.name for spec in specs], seed)
    return Simulation(chosen, specs, faults=planned).run(arrivals)


def one(at_s: float, content: int, num_prompt: int = 640, num_output: int = 5) -> Arrival:
    return Arrival(at_s, num_prompt, num_output, unlike_any(content, num_prompt, 64), 64)


def test_a_worker_that_comes_back_serves() -> None:
    faults: Faults = [Kill("workers-1", 2.0), Restart("workers-1", 5.0)]
    result = simulate("data_parallel", traffic(EVEN, seed=1), faults, {"workers": 2})
    assert not any(outcome.error for outcome in result.outcomes)
    by_worker = [(o.arrival_s, o.worker) for o in result.outcomes]
    assert not [worker for at_s, worker in by_worker if 2.5 < at_s < 5 and worker == "workers-1"]
    assert [worker for at_s, worker in by_worker if at_s > 5.5 and worker == "workers-1"]
    assert result.faults == [
        Happened("kill", "workers-1", 2.0),
        Happened("restart", "workers-1", 5.0),
    ]
    assert [use.name for use in result.workers] == ["workers-0", "workers-1"]


def test_a_worker_comes_back_empty_and_as_somebody_new() -> None:
    """The same prompt again, on the only worker there is: cached before its death, not after."""
    faults: Faults = [Kill("workers-0", 3.0), Restart("workers-0", 6.0)]
    arrivals = [one(0.0, 1), one(2.0, 1), one(8.0, 1), one(9.0, 1)]
    result = simulate("preble", arrivals, faults, {"workers": 1})
    assert [outcome.cached > 0 for outcome in result.outcomes] == [False, True, False, True]
    assert [use.available > 0 for use in result.cache] == [False, True, False, True]


def test_a_restart_takes_a_living_worker_down_first() -> None:
    result = simulate(
        "data_parallel",
        [one(0.0, 0), one(0.9, 1), one(6.0, 2)],
        [Restart("workers-0", 1.0)],
        {"workers": 1},
    )
    died, back = result.faults
    assert died == Happened("kill", "workers-0", 1.0)
    assert back.what == "restart"
    assert 1.0 < back.at_s <= 1.0 + HEARTBEAT_TIMEOUT_S + 0.2  # until its name is free
    assert not any(outcome.error for outcome in result.outcomes)
    (use,) = result.workers
    assert use.num_steps == 3 * 5, "those of both lives"


def test_a_worker_that_is_back_already_is_not_started_twice() -> None:
    faults: Faults = [
        Kill("workers-0", 1.0),
        Restart("workers-0", 1.1),
        Restart("workers-0", 1.2),
        Kill("workers-0", 5.0),
    ]
    result = simulate("data_parallel", [one(0.0, 0), one(14.0, 1)], faults, {"workers": 1})
    assert [happened.what for happened in result.faults] == ["kill", "restart", "kill"]


def test_a_repair_is_of_the_death_that_it_was_for() -> None:
    faults: Faults = [
        Kill("workers-0", 1.0, repair_s=11.0),
        Restart("workers-0", 4.0),
        Kill("workers-0", 6.0),
    ]
    result = simulate("data_parallel", [one(0.0, 0), one(20.0, 1)], faults, {"workers": 2})
    assert [(each.what, each.at_s) for each in result.faults] == [
        ("kill", 1.0),
        ("restart", 4.0),
        ("kill", 6.0),
    ]


def test_what_happens_to_the_dead_is_nothing() -> None:
    faults: Faults = [Kill("workers-0", 1.0), Kill("workers-0", 1.5, repair_s=0.1)]
    result = simulate("data_parallel", [one(0.0, 0), one(9.0, 1)], faults, {"workers": 2})
    assert result.faults == [Happened("kill", "workers-0", 1.0)]


def test_what_waits_at_a_worker_hears_of_its_death_at_once() -> None:
    """Each worker has a long prompt under way, and a short one that waits for the step's end."""
    arrivals = [one(0.0, 0, 8000), one(0.0, 1, 8000), one(0.01, 2), one(0.01, 3)]
    result = simulate("data_parallel", arrivals, [Kill("workers-0", 0.05)], {"workers": 2})
    slowest_s = max(outcome.jct_s for outcome in result.outcomes)
    assert slowest_s < HEARTBEAT_TIMEOUT_S / 2, "somebody waited until the registry missed it"


def test_who_is_still_away_when_the_traffic_ends_is_not_waited_for() -> None:
    faults: Faults = [Kill("workers-1", 1.0), Restart("workers-1", 1e6)]
    result = simulate("data_parallel", [one(0.0, 0), one(2.0, 1)], faults, {"workers": 2})
    assert [happened.what for happened in result.faults] == ["kill"]


def test_a_fault_to_come_hides_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker falls silent after its first step: its death in an hour is nothing to wait for."""
    schedule_run = RunDriver._schedule

    def once(driver: RunDriver, run: Run) -> None:
        if not driver.num_runs:
            schedule_run(driver, run)

    monkeypatch.setattr(RunDriver, "_schedule", once)
    late: Faults = [RandomFaults(every_s=36000.0, repair_s=1.0), Kill("workers-0", 3600.0)]
    with pytest.raises(Deadlock, match=r"Only daemons are left(.|\n)*request 0 waits in"):
        simulate("data_parallel", [one(0.0, 0)], late, {"workers": 1})


def check_that_nothing_is_lost(name: str, seed: int) -> Result:
    """That pages, tickets and reservations are given back, the run itself checks."""
    often = RandomFaults(every_s=0.7, repair_s=1.0)
    result = simulate(name, traffic(SHARED, seed=seed), [often], seed=seed)
    num_failed = sum(bool(outcome.error) for outcome in result.outcomes)
    num_finished = sum(outcome.num_output > 0 and not outcome.error for outcome in result.outcomes)
    assert num_finished + num_failed == NUM_REQUESTS
    assert {outcome.error for outcome in result.outcomes} <= HONEST
    return result


@pytest.mark.parametrize("name", CLUSTERS)
def test_under_random_faults_nothing_is_lost_and_all_can_be_repeated(name: str) -> None:
    first, other, again = (check_that_nothing_is_lost(name, seed) for seed in (1, 2, 1))
    assert {"kill", "restart"} == {happened.what for happened in first.faults + other.faults}
    assert first.digest == again.digest != other.digest


@pytest.mark.chaos
@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("seed", range(25))
def test_under_any_random_faults_nothing_is_lost(name: str, seed: int) -> None:
    check_that_nothing_is_lost(name, seed)
