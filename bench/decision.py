"""How long does a decision take? Bindings, guards and the plan of one request, in process.

    python bench/decision.py [FILE...] [--json FILE]      (default: every shipped strategy)

The cluster's observations are plain dictionary look-ups here: a router's own cost is not in it.
"""

import argparse
import gc
import sys
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.plan import WorkerName
from mserve.dsl.check import check_text
from record import write_record

NUM_TOKENS = 4000


class DictionaryView:
    """Implements compiler.observe.Observations with made-up, different values for every worker."""

    num_tokens = NUM_TOKENS
    num_answered = 0
    max_tokens = 256
    seed = 1

    def __init__(self, strategy: CompiledStrategy, num_workers: int) -> None:
        self._pools = {
            pool.name: [f"{pool.name}-{i}" for i in range(num_workers)] for pool in strategy.pools
        }
        workers = [worker for pool in self._pools.values() for worker in pool]
        self._loads = {w: (i * 7919 % 997) / 100 for i, w in enumerate(workers)}
        self._cached = {w: i * 613 % 3000 for i, w in enumerate(workers)}

    def workers(self, pool: str) -> list[WorkerName]:
        return self._pools[pool]

    def request(self, name: str) -> float | str:
        return 100.0 if name == "expected_output" else ""

    def prompt_key(self, begin: int, end: int) -> int:
        return begin ^ end

    def cached(self, worker: WorkerName) -> int:
        return self._cached[worker]

    def worker(self, name: str, worker: WorkerName) -> float:
        return self._loads[worker]

    def prefill_time(self, num_tokens: float, worker: WorkerName) -> float:
        return max(0.0, num_tokens) * 50e-6

    def decode_time(self, num_tokens: float, worker: WorkerName) -> float:
        return max(0.0, num_tokens) * 0.01

    def transfer_time(self, num_tokens: float, source: WorkerName, target: WorkerName) -> float:
        return max(0.0, num_tokens) * 5e-6

    def evict_time(self, num_tokens: float, worker: WorkerName) -> float:
        return max(0.0, num_tokens) * 1e-6

    def tie_break(self, worker: WorkerName) -> tuple[float, float]:
        return (0.0, 0.0)

    def turn(self, place: int) -> int:
        return 0


def measure(strategy: CompiledStrategy, num_workers: int, num_decisions: int) -> list[float]:
    """Seconds of each decision, sorted; the first ones, which derive the plan's shape, are left out."""
    view = DictionaryView(strategy, num_workers)
    for _ in range(20):
        strategy.decide(view)
    times = []
    gc.disable()
    for _ in range(num_decisions):
        begin = time.perf_counter()
        strategy.decide(view)
        times.append(time.perf_counter() - begin)
    gc.enable()
    return sorted(times)


def shipped() -> dict[str, str]:
    folder = files("mserve.strategies")
    return {e.name: e.read_text("utf-8") for e in folder.iterdir() if e.name.endswith(".mserve")}


@dataclass(frozen=True, slots=True)
class Figure:
    """Of one strategy with so many workers in each of its pools."""

    strategy: str
    workers: int
    p50_us: float
    p99_us: float


def figures_of(texts: dict[str, str]) -> list[Figure]:
    found = []
    print(f"{'strategy':<24}{'workers':>8}{'p50 us':>10}{'p99 us':>10}")
    for path, text in sorted(texts.items()):
        strategy = compile_strategy(check_text(text, path))
        for num_workers in (8, 64, 512):
            times = measure(strategy, num_workers, 2000 if num_workers < 512 else 500)
            p50, p99 = [round(times[int(len(times) * q)] * 1e6, 1) for q in (0.5, 0.99)]
            print(f"{strategy.name:<24}{num_workers:>8}{p50:>10.1f}{p99:>10.1f}")
            found.append(Figure(strategy.name, num_workers, p50, p99))
    return found


def main(options: argparse.Namespace) -> int:
    texts = {path: Path(path).read_text("utf-8") for path in options.files} or shipped()
    figures = figures_of(texts)
    write_record(
        options.json,
        "how long a decision takes",
        ["mserve"],
        prompt_tokens=NUM_TOKENS,
        figures=[asdict(figure) for figure in figures],
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    sys.exit(main(parser.parse_args()))
