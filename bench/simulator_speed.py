"""How fast is the simulator? Requests simulated per second of one core.

    python bench/simulator_speed.py [--only NAME ...] [--json FILE]

8 and 64 workers under Mooncake's conversation trace at 70% of what they can take, by the whole executor
and by disaggregation and E2; 1,000 workers under 100,000 requests that share prompts, by the least loaded
worker and by E2. A request costs what its plan, blocks and batches cost, so the figures are of these
traces. Seconds are of the process: others that keep the core busy make them more, not as many more as
they take.

Bars: 2,000 requests/s with 8 workers, 1,000 with 64; 1,000 workers and 100,000 requests in 10 minutes and
4 GB.
"""

import argparse
import gc
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path

from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_bytes
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.pools import WorkerOptions, plan_workers
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.arrivals import Arrival, scaled
from mserve.runtime.traffic.outcomes import summarize
from mserve.runtime.traffic.spec import traffic
from record import write_record

MOONCAKE = "mooncake"
RATE_PER_WORKER = 0.7  # requests/s: 70% of what a worker can take of that trace on an H200


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    strategy: str
    num_workers: int
    traffic: str
    num_requests: int
    page_size: int


SHARING = "preble-toolbench:rate=14000,num=100000,zipf=1.1"
CASES = (
    Case("8 workers", "least_loaded", 8, MOONCAKE, 4000, 512),
    Case("8 workers, disaggregated", "prefill_decode", 8, MOONCAKE, 4000, 512),
    Case("8 workers, E2", "preble_live", 8, MOONCAKE, 4000, 512),
    Case("64 workers", "least_loaded", 64, MOONCAKE, 8000, 512),
    Case("64 workers, E2", "preble_live", 64, MOONCAKE, 8000, 512),
    Case("1,000 workers", "least_loaded", 1000, SHARING, 100_000, 64),
    Case("1,000 workers, E2", "preble_live", 1000, SHARING, 100_000, 64),
)


@dataclass(frozen=True, slots=True)
class Figure:
    case: str
    strategy: str
    requests: int
    process_s: float
    wall_s: float
    requests_per_s: float  # of the process
    memory_gb: float
    busy: float  # mean share of the workers' time
    ttft_mean_s: float
    digest: str


def measure(case: Case, trace: Path | None) -> Figure:
    """In a process of its own, so that its memory is this case's."""
    name = f"{case.strategy}.mserve"
    strategy = compile_strategy(check_bytes((files("mserve.strategies") / name).read_bytes(), name))
    count = case.num_workers // len(strategy.pools)
    options = WorkerOptions(page_size=case.page_size)
    specs = plan_workers(
        strategy.pools, {pool.name: count for pool in strategy.pools}, options, load_hardware()
    )
    arrivals = _arrivals(case, trace)
    gc.freeze()
    simulation = Simulation(strategy, specs)
    began_s, began_wall_s = time.process_time(), time.perf_counter()
    result = simulation.run(arrivals)
    process_s = time.process_time() - began_s
    summary = summarize(result.outcomes)
    assert summary.ttft is not None, "requests finish"
    return Figure(
        case.name,
        case.strategy,
        summary.num_finished,
        process_s,
        time.perf_counter() - began_wall_s,
        summary.num_finished / process_s,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        sum(worker.busy_s for worker in result.workers) / len(specs) / summary.span_s,
        summary.ttft.mean,
        result.digest,
    )


def _arrivals(case: Case, trace: Path | None) -> Iterator[Arrival]:
    if case.traffic != MOONCAKE:
        return traffic(case.traffic, seed=0)
    rate = RATE_PER_WORKER * case.num_workers
    held = scaled(traffic(str(trace), seed=0), rate=rate, limit=case.num_requests)
    return iter(list(held))  # reading the trace is no simulating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, help="Mooncake's conversation_trace.jsonl")
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    cases = [each for each in CASES if not arguments.only or each.name in arguments.only]
    if arguments.trace is None:
        cases = [each for each in cases if each.traffic != MOONCAKE]
        print("without --trace, Mooncake's, only made-up traffic is simulated")
    figures: list[Figure] = []
    for case in cases:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            figures.append(pool.submit(measure, case, arguments.trace).result())
        print(_line(figures[-1]), flush=True)
    write_record(
        arguments.json,
        "how many requests the simulator simulates per second of one core",
        ["mserve"],
        load_average=os.getloadavg()[1],  # processes that wanted a core, over five minutes
        figures=[asdict(figure) for figure in figures],
    )


def _line(figure: Figure) -> str:
    return (
        f"{figure.case:<26} {figure.requests_per_s:7,.0f} requests/s  {figure.process_s:7.1f} s"
        f"  {figure.memory_gb:5.2f} GB  workers {figure.busy:.0%} busy"
    )


if __name__ == "__main__":
    main()
