"""The comparison of scheduling.py in the simulator: the same traffic, costs and memory, no busy neighbours.

    python bench/scheduling_simulated.py RECORD [--json FILE]

RECORD is a file of scheduling.py: its rates are used. Router and engines are those of serving; steps take
exactly what scheduling.py's workers try to take. So a difference between strategies that is not here, too,
was chance there.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mserve.compiler.plan import PoolSpec
from mserve.runtime.cli.strategies import servable
from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.simulator.links import LinkSpec
from mserve.runtime.simulator.priced_worker import WorkerSpec
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.outcomes import Outcome
from paced_cluster import KV_BYTES
from pacing import Pace
from record import write_record
from scheduling import KV_TOKENS, PACE, STRATEGIES, WARM_UP, Cell, Run, show
from shared_prompts import BLOCK_TOKENS, Answer, traffic

BASE_S, TOKEN_S, SEQUENCE_S = PACE
LINK_BYTES_PER_S = 1e9
LAYERS = 1
PROFILE = CostProfile(
    BASE_S, TOKEN_S, 0.0, BASE_S, SEQUENCE_S, 5e-4, LINK_BYTES_PER_S, kv_bytes_per_token=KV_BYTES
)


class PacedCost:
    """A step takes what `pacing.Pace` says."""

    tensor_parallel = 1
    usd_per_s = 0.0

    def step_time(self, batch: Batch) -> tuple[float, float]:
        return Pace(*PACE).step_s(batch), 0.0


def workers(pools: tuple[PoolSpec, ...]) -> Iterator[WorkerSpec]:
    """Four, in one pool or two."""
    for pool in pools:
        for index in range(4 // len(pools)):
            engine = EngineConfig(
                num_pages=KV_TOKENS // BLOCK_TOKENS,
                page_size=BLOCK_TOKENS,
                max_model_len=4096,
                max_sequences=100_000,
                **queue_of(pool),
            )
            link = LinkSpec(LINK_BYTES_PER_S, KV_BYTES, LAYERS)
            name = f"{pool.name}-{index}"
            yield WorkerSpec(name, pool.name, engine, PacedCost(), PROFILE, link)


def queue_of(pool: PoolSpec) -> dict[str, Any]:
    queue = pool.settings.get("queue")
    if not isinstance(queue, dict):
        return {}
    return {"queue": queue["kind"], "queue_groups": int(queue.get("groups", 10))}


def simulated(name: str, workload: str, rate: float, seed: int, duration_s: float) -> Run:
    strategy = servable(name)
    assert strategy is not None, "it ships"
    num = round(rate * duration_s)
    arrivals = traffic(workload, rate=rate, num=num, seed=seed)
    outcomes = Simulation(strategy, list(workers(strategy.pools))).run(arrivals).outcomes
    return Run([answer_of(outcome) for outcome in outcomes[round(WARM_UP * num) :]], slowdown=1.0)


def answer_of(outcome: Outcome) -> Answer:
    assert not outcome.error, f"a simulated request failed: {outcome.error}"
    assert outcome.ttft_s is not None, "an answer has a token"
    latency_s = outcome.ended_s - outcome.arrival_s
    return Answer(latency_s, outcome.ttft_s, outcome.num_prompt, outcome.cached)


def cells(rates: Mapping[str, float], seeds: int, duration_s: float) -> Iterator[Cell]:
    for name in STRATEGIES:
        for workload, rate in rates.items():
            runs = [simulated(name, workload, rate, seed, duration_s) for seed in range(seeds)]
            yield Cell.of(name, workload, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("record", type=Path, help="of scheduling.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=4.5, help="seconds of one run")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    rates = json.loads(options.record.read_text())["requests_per_s"]
    found = []
    for cell in cells(rates, options.seeds, options.duration):
        found.append(cell)
        print(show(cell), flush=True)
    rows = [asdict(cell) for cell in found]
    setup: dict[str, Any] = {"pace_s": PACE, "kv_tokens": KV_TOKENS, "requests_per_s": rates}
    write_record(options.json, "strategies in the simulator", ["mserve"], **setup, cells=rows)


if __name__ == "__main__":
    main()
