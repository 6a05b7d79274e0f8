"""Which strategy places requests best where prompts share beginnings? On real workers.

    python bench/scheduling.py [--strategies NAME ...] [--workloads NAME ...] [--seeds N] [--again FILE]
                               [--json FILE]

Four workers behind a router, over HTTP, open loop. Prompts have the statistics of Preble's five workloads
(arXiv 2407.00023, section 2), lengths scaled down to about 700 tokens, groups of the same beginning drawn
by Zipf's law; a sixth workload shares nothing. Each is sent at 70% of the rate that round robin can take,
measured first. The first requests of a run only warm the caches and do not count.

The workers are real but for the speed of their model: each step lasts as long as on a machine with 5,000
prompt tokens/s and 16 ms a step (bench/paced_cluster.py). "slowdown" says how much longer than wanted the steps took. A run in which it is above 1.1, since others
keep the cores busy, is done once more with cold caches, and the calmer one counts.

Bars: where sharing is high, mean latency at least 1.5 times better than round robin; where there is none,
no worse than least loaded.
"""

import argparse
import asyncio
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paced_cluster
from paced_cluster import SLOWDOWN, calmest
from pacing import steps_of
from record import write_record
from shared_prompts import WORKLOADS, ZIPF, Answer, capacity, open_loop, traffic

STRATEGIES = (
    "round_robin",
    "least_loaded",
    "longest_prefix",
    "sglang_cache_aware",
    "lmetric",
    "preble",
    "preble_live",
    "preble_pd",
)
PACE = (16e-3, 2e-4, 2e-4)  # seconds: a step, a prompt token, an answer in the step
KV_TOKENS = 8_000  # that a worker holds
LOAD = 0.7  # of round robin's capacity
WARM_UP = 0.25  # of the requests


def serving(strategy: str) -> AbstractContextManager[tuple[str, Path]]:
    """(URL, folder of the engines' step logs) of four paced workers."""
    pools = {"prefill": 2, "decode": 2} if strategy == "preble_pd" else {"workers": 4}
    return paced_cluster.serving(strategy, pools, pace=PACE, kv_tokens=KV_TOKENS)


# --- the comparison ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One workload of one seed under one strategy."""

    answers: Sequence[Answer]
    slowdown: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one strategy, all seeds together."""

    strategy: str
    workload: str
    requests: int
    mean_ms: float
    p99_ms: float
    ttft_mean_ms: float
    ttft_p99_ms: float
    hit_rate: float
    slowdown: float
    mean_ms_by_seed: tuple[float, ...]

    @classmethod
    def of(cls, strategy: str, workload: str, runs: Sequence[Run]) -> "Cell":
        answers = [answer for run in runs for answer in run.answers]
        latencies = [answer.latency_s for answer in answers]
        firsts = [answer.first_token_s for answer in answers]
        cached = sum(answer.cached_tokens for answer in answers)
        return cls(
            strategy,
            workload,
            len(answers),
            ms(statistics.fmean(latencies)),
            ms(p99(latencies)),
            ms(statistics.fmean(firsts)),
            ms(p99(firsts)),
            round(cached / sum(answer.prompt_tokens for answer in answers), 4),
            round(statistics.fmean(run.slowdown for run in runs), 3),
            tuple(ms(statistics.fmean(each.latency_s for each in run.answers)) for run in runs),
        )


def p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


def ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    workloads: Sequence[str]
    seeds: Sequence[int]
    duration_s: float  # of a run's arrivals

    def rates(self) -> dict[str, float]:
        """Requests/s of each workload."""
        with serving("round_robin") as (url, _):
            found = {}
            for name in self.workloads:
                rate = LOAD * asyncio.run(capacity(url, name, 200))
                found[name] = round(rate, 2)
            return found

    def cells(self, strategy: str, rates: Mapping[str, float]) -> Iterator[Cell]:
        """Of all workloads under one strategy."""
        with serving(strategy) as (url, logs):
            for name in self.workloads:
                runs = [self._run(url, logs, name, rates[name], seed) for seed in self.seeds]
                yield Cell.of(strategy, name, runs)

    def _run(self, url: str, logs: Path, name: str, rate: float, seed: int) -> Run:
        num = round(rate * self.duration_s)
        arrivals = traffic(name, rate=rate, num=num, seed=seed)

        def play(number: int) -> Run:
            before = steps_of(logs)
            answers = asyncio.run(open_loop(url, arrivals, f"{name} {seed} {number}"))
            return Run(answers[round(WARM_UP * num) :], steps_of(logs).since(before).slowdown)

        return calmest(play)


def show(cell: Cell) -> str:
    return (
        f"{cell.workload:16} {cell.strategy:20} {cell.mean_ms:8.0f} {cell.p99_ms:8.0f}"
        f" {cell.ttft_mean_ms:8.0f} {cell.ttft_p99_ms:8.0f} {cell.hit_rate:7.1%} {cell.slowdown:6.2f}"
    )


def kept(path: Path | None) -> tuple[dict[str, float], list[Cell]]:
    """Rates and cells of an earlier record."""
    if path is None:
        return {}, []
    record = json.loads(path.read_text())
    return record["requests_per_s"], [Cell(**row) for row in record["cells"]]


def calmer(cells: Sequence[Cell]) -> list[Cell]:
    """Of each workload under each strategy the cell that was disturbed least, in order."""
    best: dict[tuple[int, int], Cell] = {}
    for cell in cells:
        place = list(WORKLOADS).index(cell.workload), STRATEGIES.index(cell.strategy)
        if place not in best or cell.slowdown < best[place].slowdown:
            best[place] = cell
    return [best[place] for place in sorted(best)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=4.5, help="seconds of one run")
    parser.add_argument(
        "--again", type=Path, help="a record: measure what was disturbed there once more"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    rates, cells = kept(options.again)
    rates = rates or Plan(options.workloads, (), options.duration).rates()
    print("requests/s:", json.dumps(rates), flush=True)
    print(
        "workload         strategy                 mean      p99  TTFT mean   p99  cached  slowdown"
    )
    for strategy in options.strategies:
        calm = [cell for cell in cells if cell.slowdown < SLOWDOWN]
        done = {cell.workload for cell in calm if cell.strategy == strategy}
        missing = [name for name in options.workloads if name not in done]
        plan = Plan(missing, range(options.seeds), options.duration)
        for cell in plan.cells(strategy, rates) if missing else ():
            cells.append(cell)
            print(show(cell), flush=True)
    setup: dict[str, Any] = {
        "pace_s": PACE,
        "kv_tokens": KV_TOKENS,
        "load": LOAD,
        "zipf": ZIPF,
        "seeds": options.seeds,
        "requests_per_s": rates,
    }
    rows = [asdict(cell) for cell in calmer(cells)]
    write_record(options.json, "strategies on real workers", ["mserve"], **setup, cells=rows)


if __name__ == "__main__":
    main()
