"""What the scheduler and the prefix cache cost and save, with the shipped model on this machine.

gaps   Time between two tokens of running answers while long prompts arrive: with chunked prefill,
       and with whole prompts in one step. Both in one run, rounds alternating.
cache  CPU time of an engine whose prefix cache never hits, against one without: prompts that have
       nothing in common. What is spent outside of the model is compared, since it alone differs.

    python bench/scheduler.py [--json FILE]
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, pairwise
from pathlib import Path

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import Generated
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens
from record import write_record

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between two tokens of an answer, over all rounds."""

    chunk_tokens: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    prompt_ms: float  # from a long prompt's arrival to its first token, median


@dataclass(frozen=True, slots=True)
class CacheCost:
    """CPU seconds, medians over the rounds."""

    with_cache_s: float
    without_cache_s: float
    host_with_cache_s: float  # outside of the model
    host_without_cache_s: float

    @property
    def share(self) -> float:
        """Of the time without a cache, what a cache adds outside of the model."""
        return (self.host_with_cache_s - self.host_without_cache_s) / self.without_cache_s


class Loop:
    """A fresh engine on a runner, one step at a time."""

    def __init__(
        self, runner: TorchRunner, config: EngineConfig, seed: int, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._runner = runner
        self._engine = Engine(config)
        self._random = random.Random(seed)
        self._ids = count()
        self.token_times: dict[str, list[float]] = {}
        self.run_s = 0.0

    def submit(self, prompt_tokens: int, output_tokens: int) -> str:
        vocabulary = range(5, self._runner.config.vocab_size)
        prompt = self._random.choices(vocabulary, k=prompt_tokens)
        sampling = Sampling(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
        step = StartGenerateCall("generate", 0, sampling)
        call = PlanCall(str(next(self._ids)), pack_tokens(prompt), (step,))
        key = self._engine.submit(call, self._clock()).key
        self.token_times[key] = []
        return key

    def step(self) -> bool:
        """False if there is nothing to do."""
        batch = self._engine.plan(self._clock())
        if batch is None:
            return False
        begin = self._clock()
        output = self._runner.run(batch)
        now = self._clock()
        self.run_s += now - begin
        self._engine.commit(batch, output, now)
        for event in self._engine.drain():
            if isinstance(event, Generated):
                self.token_times[event.key].append(now)
        return True


def measure_gaps(runner: TorchRunner, config: EngineConfig, options: argparse.Namespace) -> Gaps:
    """One chunk size; see `compare_gaps` for the alternation."""
    loop = Loop(runner, config, options.seed, time.perf_counter)
    running = [loop.submit(32, options.output) for _ in range(options.running)]
    while not all(loop.token_times[key] for key in running):
        loop.step()
    waits = []
    for _ in range(options.arrivals):
        begin = time.perf_counter()
        arrived = loop.submit(options.prompt, 1)
        while not loop.token_times[arrived]:
            loop.step()
        waits.append(loop.token_times[arrived][0] - begin)
        for _ in range(8):
            loop.step()
    times = (loop.token_times[key] for key in running)
    gaps = sorted(1e3 * (b - a) for series in times for a, b in pairwise(series))
    return Gaps(
        config.chunk_tokens,
        p50_ms=_quantile(gaps, 0.5),
        p99_ms=_quantile(gaps, 0.99),
        longest_ms=gaps[-1],
        prompt_ms=1e3 * statistics.median(waits),
    )


def compare_gaps(runner: TorchRunner, options: argparse.Namespace) -> list[Gaps]:
    """Per chunk size, the medians over the rounds; the last one takes whole prompts."""
    config = config_of(runner)
    whole = config.max_model_len
    configs = [
        replace(config, chunk_tokens=chunk, max_batch_tokens=whole + options.running)
        for chunk in (*options.chunks, whole)
    ]
    rounds = [[measure_gaps(runner, c, options) for c in configs] for _ in range(options.rounds)]
    return [
        Gaps(
            column[0].chunk_tokens,
            p50_ms=statistics.median(gaps.p50_ms for gaps in column),
            p99_ms=statistics.median(gaps.p99_ms for gaps in column),
            longest_ms=statistics.median(gaps.longest_ms for gaps in column),
            prompt_ms=statistics.median(gaps.prompt_ms for gaps in column),
        )
        for column in zip(*rounds, strict=True)
    ]


def measure_cache(runner: TorchRunner, options: argparse.Namespace) -> CacheCost:
    """Alternates engines with and without a prefix cache, on the same prompts in every round."""
    config = config_of(runner)
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for seed in range(options.cache_rounds):
        for prefix_cache in (True, False) if seed % 2 else (False, True):
            variant = replace(config, prefix_cache=prefix_cache)
            loop = Loop(runner, variant, seed, time.thread_time)
            times[prefix_cache].append(_serve(loop))
    medians = {
        kind: [statistics.median(column) for column in zip(*seconds, strict=True)]
        for kind, seconds in times.items()
    }
    return CacheCost(medians[True][0], medians[False][0], medians[True][1], medians[False][1])


def _serve(loop: Loop) -> tuple[float, float]:
    """CPU seconds in all, and outside of the model, of 32 answers to prompts of 256 tokens."""
    begin = time.thread_time()
    for _ in range(32):
        loop.submit(256, 64)
    while loop.step():
        pass
    total_s = time.thread_time() - begin
    return total_s, total_s - loop.run_s


def config_of(runner: TorchRunner) -> EngineConfig:
    return EngineConfig(
        num_pages=runner.pool.num_pages,
        page_size=runner.pool.page_size,
        max_model_len=runner.config.max_positions,
    )


def _quantile(ascending: list[float], share: float) -> float:
    return ascending[math.ceil(share * len(ascending)) - 1]


def lines_of(gaps: list[Gaps], cost: CacheCost) -> Iterator[str]:
    yield f"{'chunk':>8} {'p50 gap':>10} {'p99 gap':>10} {'longest':>10} {'long prompt':>12}"
    for row in gaps:
        yield (
            f"{row.chunk_tokens:>8} {row.p50_ms:>7.1f} ms {row.p99_ms:>7.1f} ms"
            f" {row.longest_ms:>7.1f} ms {row.prompt_ms:>9.0f} ms"
        )
    yield (
        f"a prefix cache without hits: {cost.with_cache_s:.2f} s against"
        f" {cost.without_cache_s:.2f} s; outside of the model"
        f" {1e3 * cost.host_with_cache_s:.1f} ms against"
        f" {1e3 * cost.host_without_cache_s:.1f} ms, {cost.share:.2%} of the whole"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="gaps between tokens, cost of the prefix cache")
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--running", type=int, default=8, help="answers under way")
    parser.add_argument("--output", type=int, default=400, help="tokens of each of them, at most")
    parser.add_argument("--prompt", type=int, default=3000, help="tokens of a long prompt")
    parser.add_argument("--arrivals", type=int, default=3, help="long prompts per round")
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache-rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    runner = load_runner(options.model, threads=1, page_size=PAGE_SIZE, num_pages=1024)
    gaps, cost = compare_gaps(runner, options), measure_cache(runner, options)
    print("\n".join(lines_of(gaps, cost)))
    write_record(
        options.json,
        "gaps between tokens and cost of the prefix cache",
        ["mserve", "torch"],
        threads=1,
        gaps=[asdict(row) for row in gaps],
        cache=asdict(cost) | {"share": cost.share},
    )


if __name__ == "__main__":
    main()
