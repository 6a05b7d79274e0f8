"""Whole simulations: right against queueing theory and by hand, deterministic, and honest in their end."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from mserve.compiler.pipeline import CompiledStrategy
from mserve.runtime.cli.strategies import checked, compiled_text
from mserve.runtime.simulator.faults import Kill
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.loop import Deadlock, SimulationError
from mserve.runtime.simulator.pools import WorkerOptions, plan_workers
from mserve.runtime.simulator.results import Result
from mserve.runtime.simulator.runs import Run, RunDriver
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.simulator.step_cost import HardwareCost
from mserve.runtime.traffic.arrivals import Arrival, unlike_any
from mserve.runtime.traffic.outcomes import summarize
from mserve.runtime.traffic.spec import traffic

SPEC = "poisson:rate=20,input=500,output=40,num=150"
SHARED = "preble-toolbench:rate=20,num=120,zipf=1.1"
LATENCY_S = 2e-4
OPTIONS = WorkerOptions()
COST = HardwareCost.named(load_hardware(), OPTIONS.gpu, OPTIONS.model)


def strategy(name: str) -> CompiledStrategy:
    found = compiled_text(name, checked(name))
    assert found is not None, "shipped strategies compile"
    return found


def simulate(
    name: str,
    arrivals: Iterable[Arrival],
    counts: Mapping[str, int],
    options: WorkerOptions = OPTIONS,
) -> Result:
    chosen = strategy(name)
    specs = plan_workers(chosen.pools, counts, options, load_hardware())
    return Simulation(chosen, specs, latency_s=LATENCY_S).run(arrivals)


def one(num_prompt: int, num_output: int, at_s: float = 0.0, content: int = 0) -> Arrival:
    return Arrival(at_s, num_prompt, num_output, unlike_any(content, num_prompt, 64), 64)


def test_a_lone_request_takes_its_prefill_its_decodes_and_the_latencies() -> None:
    result = simulate("data_parallel", [one(3000, 2)], {"workers": 1})
    (outcome,) = result.outcomes
    assert outcome.ttft_s == pytest.approx(COST.prefill_time(3000) + 2 * LATENCY_S, abs=2e-6)
    assert outcome.tpot_s == pytest.approx(COST.decode_time([3001]), abs=2e-6)
    assert (outcome.num_prompt, outcome.num_output, outcome.error) == (3000, 2, "")


def test_a_disaggregated_request_hides_its_transfer_but_for_the_last_layer() -> None:
    result = simulate("prefill_decode", [one(4000, 1)], {"prefill": 1, "decode": 1})
    prefill_s, whole_s = COST.prefill_time(3999), COST.transfer_time(3999)
    ttft_s = result.outcomes[0].ttft_s
    assert ttft_s is not None
    rest_s = ttft_s - prefill_s - COST.prefill_time(1, 3999)
    assert 0 < rest_s < 0.25 * whole_s + 10 * LATENCY_S
    assert result.transferred_bytes == 3999 * COST.kv_bytes_per_token


def test_waiting_times_are_those_of_queueing_theory() -> None:
    """One worker, prompts only, served one by one: M/D/1, where the mean wait is
    rho / (2 (1 - rho)) services (Pollaczek and Khinchine)."""
    options = replace(OPTIONS, max_batch_tokens=2000, chunk_tokens=2000)
    service_s = COST.prefill_time(2000)
    rate = 0.6 / service_s
    spec = f"poisson:rate={rate},input=2000,output=1,num=1500"
    summary = summarize(
        simulate("data_parallel", traffic(spec, seed=1), {"workers": 1}, options).outcomes
    )
    assert summary.ttft is not None
    expected_s = service_s * (1 + 0.6 / (2 * 0.4)) + 2 * LATENCY_S
    assert summary.ttft.mean == pytest.approx(expected_s, rel=0.1)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("data_parallel", {"workers": 3}),
        ("balanced", {"prefill": 2, "decode": 2}),
        ("preble_live", {"workers": 3}),
        ("migration", {"prefill": 1, "decode": 1}),
    ],
)
def test_every_request_ends_and_everything_is_given_back(name: str, counts: dict[str, int]) -> None:
    pools = {pool.name for pool in strategy(name).pools}
    given = counts if counts.keys() <= pools else {}
    result = simulate(name, traffic(SHARED, seed=3), given)
    assert len(result.outcomes) == 120
    assert not any(outcome.error for outcome in result.outcomes)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("data_parallel", {"workers": 2}), ("prefill_decode", {"prefill": 1, "decode": 1})],
)
def test_runs_of_steps_end_when_single_steps_would(name: str, counts: dict[str, int]) -> None:
    chosen = strategy(name)
    specs = plan_workers(chosen.pools, counts, OPTIONS, load_hardware())
    small = [replace(spec, engine=replace(spec.engine, num_pages=200)) for spec in specs]
    single = [replace(spec, engine=replace(spec.engine, max_repeat=1)) for spec in small]
    runs, steps = (Simulation(chosen, each).run(traffic(SPEC, seed=5)) for each in (small, single))
    assert sum(worker.num_runs for worker in runs.workers) < 0.7 * sum(
        worker.num_steps for worker in steps.workers
    )
    for run, step in zip(runs.outcomes, steps.outcomes, strict=True):
        assert run.first_token_s == pytest.approx(step.first_token_s, abs=1e-6)
        assert run.ended_s == pytest.approx(step.ended_s, abs=1e-6)
        assert (run.worker, run.cached) == (step.worker, step.cached)


def test_what_is_delivered_was_available() -> None:
    result = simulate("preble_live", traffic(SHARED, seed=3), {"workers": 4})
    total = sum(use.delivered for use in result.cache)
    assert 0.3 < total / sum(outcome.num_prompt for outcome in result.outcomes) < 1
    assert sum(use.routed for use in result.cache) <= sum(use.available for use in result.cache)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("data_parallel", {"workers": 2}), ("prefill_decode", {"prefill": 2, "decode": 2})],
)
def test_little_memory_ends_no_request(name: str, counts: dict[str, int]) -> None:
    """A cache of two prompts: admission waits, decodes are preempted, plans give way to others."""
    chosen = strategy(name)
    specs = plan_workers(chosen.pools, counts, OPTIONS, load_hardware())
    small = [replace(spec, engine=replace(spec.engine, num_pages=20)) for spec in specs]
    result = Simulation(chosen, small).run(traffic(SPEC, seed=1))
    assert not any(outcome.error for outcome in result.outcomes)


@pytest.mark.parametrize("victim", ["prefill-1", "decode-0"])
def test_a_worker_that_dies_takes_no_request_with_it(victim: str) -> None:
    chosen = strategy("prefill_decode")
    counts = {"prefill": 2, "decode": 2}
    specs = plan_workers(chosen.pools, counts, OPTIONS, load_hardware())
    result = Simulation(chosen, specs, faults=[Kill(victim, 2.0)]).run(traffic(SPEC, seed=1))
    assert not any(outcome.error for outcome in result.outcomes)
    late = [outcome.worker for outcome in result.outcomes if outcome.arrival_s > 5.0]
    assert late
    assert victim not in late


def test_a_prompt_that_never_fits_fails_alone() -> None:
    chosen = strategy("data_parallel")
    specs = plan_workers(chosen.pools, {"workers": 1}, OPTIONS, load_hardware())
    small = [replace(spec, engine=replace(spec.engine, num_pages=20)) for spec in specs]
    arrivals = [one(500, 5), one(5000, 5, 0.1, content=1), one(500, 5, 0.2, content=2)]
    errors = [outcome.error for outcome in Simulation(chosen, small).run(arrivals).outcomes]
    assert errors[0] == errors[2] == ""
    assert errors[1]


def test_a_strategy_without_workers_is_refused_in_time() -> None:
    chosen = strategy("balanced")
    specs = plan_workers(chosen.pools, {"prefill": 1, "decode": 1}, OPTIONS, load_hardware())
    only = [spec for spec in specs if spec.pool == "prefill"]
    (outcome,) = Simulation(chosen, only).run([one(3000, 2)]).outcomes
    assert outcome.error == "unavailable_error"


def test_a_crash_of_ours_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mserve.runtime.router.placement.Placement.place", broken)
    with pytest.raises((SimulationError, ZeroDivisionError)):
        simulate("data_parallel", [one(500, 5)], {"workers": 1})


def test_a_worker_that_falls_silent_is_a_deadlock_that_says_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an answer has begun no time-out ends it: only the registry misses its worker."""
    schedule = RunDriver._schedule

    def once(driver: RunDriver, run: Run) -> None:
        if not driver.num_runs:
            schedule(driver, run)

    monkeypatch.setattr(RunDriver, "_schedule", once)
    with pytest.raises(Deadlock, match=r"Only daemons are left since .*\n(.|\n)*waits in"):
        simulate("data_parallel", [one(500, 5)], {"workers": 1})


def test_the_same_run_in_every_process() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_simulation as t\n"
        "for name, counts in (('preble_live', dict(workers=3)),"
        " ('prefill_decode', dict(prefill=2, decode=2))):\n"
        "    print(t.simulate(name, t.traffic(t.SHARED, seed=3), counts).digest)"
    )
    command = [sys.executable, "-c", script, __file__.rpartition("/")[0]]
    runs = [
        subprocess.Popen(command, env={"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True)
        for seed in ("1", "77")
    ]
    first, second = (run.communicate(timeout=60)[0] for run in runs)
    assert first == second
    assert len(first.split()) == 2


def test_another_seed_is_another_run() -> None:
    runs = [
        simulate("data_parallel", traffic(SPEC, seed=seed), {"workers": 2}) for seed in (1, 2, 1)
    ]
    assert runs[0].digest == runs[2].digest != runs[1].digest
