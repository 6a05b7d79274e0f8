"""How near does a simulation come to a real cluster? The same arrivals, served and simulated.

    python bench/simulator.py [--strategies NAME ...] [--num N] [--json FILE]

`mserve calibrate` measures a cluster under data_parallel, once. Then every strategy serves the same traffic
on a real cluster of four workers, twice, each time freshly started; and the profile's four workers serve it
in the simulator. Printed are the errors of the simulation against the mean of the two real runs, and beside
them by how much these differ from each other.

Four workers on two cores are not four machines. So each step of their engines lasts until a machine of the
pace below would have done it (bench/paced_cluster.py): steps are real in all but their length, and
everything else, HTTP, router, index, scheduler, KV, UCX, is as it is. The calibration does not know the
pace; it finds it. "slowdown" says how much longer than that steps took since the cores are shared;
a run above 1.1 is done once more, and the calmer one counts.

Bars: means within 10%, p99 within 20%.
"""

import argparse
import asyncio
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

import paced_cluster
from mserve.runtime.cli.strategies import servable
from mserve.runtime.clock import LoopClock
from mserve.runtime.simulator.pools import plan_measured
from mserve.runtime.simulator.profile import Profile, read_profile
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.client import Client, Server
from mserve.runtime.traffic.load import PromptRequests
from mserve.runtime.traffic.model import Wanted, find_model
from mserve.runtime.traffic.outcomes import Distribution, Outcome, summarize
from mserve.runtime.traffic.replay import Replay
from mserve.runtime.traffic.workloads import sharing
from paced_cluster import calmest
from pacing import steps_of
from record import write_record
from served import MSERVE
from shared_prompts import WORKLOADS

STRATEGIES = ("data_parallel", "prefill_decode", "balanced", "preble")
POOLS: Mapping[str, Mapping[str, int]] = {
    "data_parallel": {"workers": 4},
    "prefill_decode": {"prefill": 2, "decode": 2},
    "balanced": {"prefill": 2, "decode": 2},
    "preble": {"workers": 4},
}
PACE = (40e-3, 5e-4, 1e-3)  # seconds: a step, a prompt token, an answer in the step
KV_TOKENS = 16_000
RATE = 3.5  # requests/s
BLOCK_TOKENS = 16
MOST_OUTPUT = 60
RUNS = 2
WARM_UP_PROMPTS = 16  # before a run: connections are made, also between workers
WARM_UP_TOKENS = 300
MEAN_BAR, P99_BAR = 0.10, 0.20


def arrivals(num: int, seed: int) -> list[Arrival]:
    """Preble's tool use with shorter prompts: some 640 tokens, most of a prompt shared with others."""
    workload = WORKLOADS["toolbench"]
    assert workload is not None, "toolbench shares"
    made = sharing(
        workload.scaled, rate=RATE, num=num, seed=seed, zipf=1.0, block_tokens=BLOCK_TOKENS
    )
    return [replace(each, num_output=min(each.num_output, MOST_OUTPUT)) for each in made]


# --- real ------------------------------------------------------------------------------------------


def serving(strategy: str) -> AbstractContextManager[tuple[str, Path]]:
    """(URL, folder of the engines' step logs) of four paced workers."""
    return paced_cluster.serving(strategy, POOLS[strategy], pace=PACE, kv_tokens=KV_TOKENS)


def calibrated(path: Path) -> Profile:
    """What `mserve calibrate` makes of a cluster; kept in `path`."""
    with serving("data_parallel") as (url, _):
        subprocess.run([*MSERVE, "calibrate", url, "-o", str(path)], check=True)
    return read_profile(path)


def known_profile(path: Path | None) -> Profile:
    if path is not None and path.exists():
        return read_profile(path)
    with tempfile.TemporaryDirectory() as folder:
        return calibrated(path or Path(folder, "profile.json"))


async def replayed(url: str, traffic: Sequence[Arrival], seed: int) -> list[Outcome]:
    """In the order of arrival."""
    clock = LoopClock()
    client = Client(Server.at(url), clock.now)
    try:
        model = await find_model(client, url, Wanted())
        warm_up = Replay(PromptRequests(client, model, -seed), clock, _warm_up(), 60)
        await warm_up.closed_loop(WARM_UP_PROMPTS // 2)
        replay = Replay(PromptRequests(client, model, seed), clock, traffic, 120)
        await replay.open_loop()
    finally:
        client.close()
    progress = replay.progress
    assert not progress.num_failed, progress.examples
    return sorted(progress.outcomes, key=lambda outcome: outcome.arrival_s)


def _warm_up() -> list[Arrival]:
    blocks = -(-WARM_UP_TOKENS // BLOCK_TOKENS)
    return [
        Arrival(0.0, WARM_UP_TOKENS, 4, tuple(range(n << 20, (n << 20) + blocks)), BLOCK_TOKENS)
        for n in range(WARM_UP_PROMPTS)
    ]


@dataclass(frozen=True, slots=True)
class Run:
    outcomes: Sequence[Outcome]
    slowdown: float


def served(strategy: str, traffic: Sequence[Arrival]) -> Run:
    def play(number: int) -> Run:
        with serving(strategy) as (url, logs):
            before = steps_of(logs)
            outcomes = asyncio.run(replayed(url, traffic, random.getrandbits(32)))
            return Run(outcomes, round(steps_of(logs).since(before).slowdown, 3))

    return calmest(play)


# --- simulated -------------------------------------------------------------------------------------


def simulated(name: str, traffic: Sequence[Arrival], profile: Profile) -> list[Outcome]:
    strategy = servable(name)
    assert strategy is not None, "it ships"
    specs = plan_measured(strategy.pools, POOLS[name], profile)
    return Simulation(strategy, specs, request_s=profile.request.time).run(traffic).outcomes


# --- the comparison --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one strategy, in milliseconds; shares are of the mean of the real runs."""

    strategy: str
    name: str
    real_ms: tuple[float, ...]
    simulated_ms: float
    error: float
    real_difference: float
    holds: bool

    @classmethod
    def of(cls, strategy: str, name: str, real: Sequence[float], simulated: float) -> "Figure":
        mean = sum(real) / len(real)
        error = simulated / mean - 1
        bar = MEAN_BAR if name.endswith("mean") else P99_BAR
        return cls(
            strategy,
            name,
            tuple(round(1e3 * value, 1) for value in real),
            round(1e3 * simulated, 1),
            round(error, 4),
            round((max(real) - min(real)) / mean, 4),
            abs(error) <= bar,
        )


def figures(
    strategy: str, real: Sequence[Sequence[Outcome]], found: Sequence[Outcome]
) -> Iterator[Figure]:
    all_real, simulated_times = [times(each) for each in real], times(found)
    for name, value in simulated_times.items():
        yield Figure.of(strategy, name, [each[name] for each in all_real], value)


def times(outcomes: Sequence[Outcome]) -> dict[str, float]:
    summary = summarize(outcomes)
    found: dict[str, float] = {}
    kinds = {"TTFT": summary.ttft, "TPOT": summary.tpot, "JCT": summary.jct}
    for kind, distribution in kinds.items():
        assert isinstance(distribution, Distribution), "every request got tokens"
        found[f"{kind} mean"], found[f"{kind} p99"] = distribution.mean, distribution.p99
    return found


def cached(outcomes: Sequence[Outcome]) -> float:
    return round(sum(o.cached for o in outcomes) / sum(o.num_prompt for o in outcomes), 4)


def show(figure: Figure) -> str:
    real = " ".join(f"{value:9,.1f}" for value in figure.real_ms)
    return (
        f"{figure.strategy:15} {figure.name:10} {real} {figure.simulated_ms:9,.1f}"
        f" {figure.error:+8.1%} {figure.real_difference:8.1%} {'' if figure.holds else '  MISSED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--num", type=int, default=200, help="requests of a run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", type=Path, help="used if it is there, else written")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument(
        "--served",
        type=Path,
        help="the real runs: used where they are there, else served and added",
    )
    options = parser.parse_args()
    profile = known_profile(options.profile)
    traffic = arrivals(options.num, options.seed)
    rows: list[Figure] = []
    runs: dict[str, object] = {}
    print("strategy        figure       real 1    real 2 simulated    error  between real runs")
    for strategy in options.strategies:
        real = known_runs(strategy, traffic, options.served)
        found = simulated(strategy, traffic, profile)
        runs[strategy] = {
            "slowdown": [run.slowdown for run in real],
            "cached": [cached(run.outcomes) for run in real],
            "cached_simulated": cached(found),
        }
        for figure in figures(strategy, [run.outcomes for run in real], found):
            rows.append(figure)
            print(show(figure), flush=True)
        print(f"{strategy:15} {json.dumps(runs[strategy])}", flush=True)
    write_record(
        options.json,
        "a simulation beside the real cluster that it was calibrated with",
        ["mserve"],
        pace_s=PACE,
        workers=4,
        requests=options.num,
        requests_per_s=RATE,
        bars={"mean": MEAN_BAR, "p99": P99_BAR},
        profile=costs_of(profile),
        runs=runs,
        figures=[asdict(row) for row in rows],
    )


def known_runs(strategy: str, traffic: Sequence[Arrival], path: Path | None) -> list[Run]:
    """Those in `path`; without them, real ones, which are kept there."""
    known: dict[str, list[Run]] = {}
    if path is not None and path.exists():
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Run]])
    if strategy not in known:
        known[strategy] = [served(strategy, traffic) for _ in range(RUNS)]
        if path is not None:
            path.write_bytes(msgspec.json.encode(known))
    return known[strategy]


def costs_of(profile: Profile) -> dict[str, object]:
    """What was calibrated, without the points."""
    steps, request = msgspec.to_builtins(profile.steps), msgspec.to_builtins(profile.request)
    return {"steps": steps, "request": request}


if __name__ == "__main__":
    main()
