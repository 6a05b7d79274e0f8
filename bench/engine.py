"""The engine on this machine: tokens per second against transformers' generate, and what waits.

Both sides run the same weights in the same numbers with the same torch threads and the same
prompts, and answer greedily; rounds alternate, so that a busy machine slows both. Then the time
between two tokens of running answers while long prompts arrive, cut into chunks and whole; and what a
step takes in the plain and in the overlapped loop. On a CPU, where a launched step is done, the
latter saves nothing.

    python bench/engine.py [--model FOLDER] [--device cuda --dtype bfloat16] [--json FILE]
"""

import argparse
import importlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch

from mserve.runtime.config import shipped_model
from mserve.runtime.engine.batching import Batch, LaunchedStep
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import Generated
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens
from record import write_record
from scheduler import Gaps, compare_gaps

Prompts = list[list[int]]
PAGE_SIZE = 16
LONG_PROMPTS = argparse.Namespace(
    running=8, output=400, prompt=3000, arrivals=3, chunks=[512], rounds=3, seed=0
)
"""What bench/scheduler.py is told: the last of its rows takes the prompts whole."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians over the rounds. `host_overhead` is the share of a step outside of the runner; the
    first token's time is from the arrival of all prompts, the others' between two of an answer."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int
    mserve_tokens_per_s: float
    transformers_tokens_per_s: float
    ratio: float
    first_token_ms: float
    next_token_ms: float
    host_us_per_step: float
    host_overhead: float


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Medians over the rounds, of one loop. `host_us` is the part of a step outside of the runner; in
    the overlapped loop a GPU works meanwhile."""

    concurrency: int
    overlaps: bool
    step_us: float
    host_us: float


class EngineLoop:
    """The engine and its runner, driven as a worker's engine process does, without transfers."""

    def __init__(self, runner: TorchRunner, *, overlaps: bool = False, **limits: Any) -> None:
        """`limits` are fields of EngineConfig."""
        self._runner = runner
        self._overlaps = overlaps
        self._engine = Engine(
            EngineConfig(
                num_pages=runner.pool.num_pages,
                page_size=runner.pool.page_size,
                max_model_len=runner.config.max_positions,
                eos_token_ids=frozenset(runner.config.eos_ids),
                **limits,
            )
        )
        self._ids = count()
        self.reset()

    @property
    def max_batch_tokens(self) -> int:
        return self._engine.config.max_batch_tokens

    def reset(self) -> None:
        self.steps = 0
        self.run_s = 0.0
        self.decode_steps: list[tuple[int, float]] = []  # sequences and seconds, of decodes alone
        self.token_times: list[list[float]] = []  # of each answer, from when its prompt came

    def generate(self, prompts: Prompts, output_tokens: int) -> list[list[int]]:
        sampling = Sampling(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
        answers: dict[str, list[int]] = {}
        times: dict[str, list[float]] = {}
        arrival = step_begin = time.perf_counter()
        for prompt in prompts:
            step = StartGenerateCall("generate", 0, sampling)
            call = PlanCall(str(next(self._ids)), pack_tokens(prompt), (step,))
            key = self._engine.submit(call, time.monotonic()).key
            answers[key], times[key] = [], []
        for batch in self._overlapped_steps() if self._overlaps else self._plain_steps():
            self.steps += 1
            now = time.perf_counter()
            for event in self._engine.drain():
                if isinstance(event, Generated):
                    answers[event.key].append(event.token)
                    times[event.key].append(now - arrival)
            if not batch.prefill:
                self.decode_steps.append((len(batch.decode), now - step_begin))
            step_begin = now
        self.token_times += times.values()
        return list(answers.values())

    def _plain_steps(self) -> Iterator[Batch]:
        while (batch := self._engine.plan(time.monotonic())) is not None:
            with self._in_runner():
                output = self._runner.run(batch)
            self._engine.commit(batch, output, time.monotonic())
            yield batch

    def _overlapped_steps(self) -> Iterator[Batch]:
        running: tuple[Batch, LaunchedStep] | None = None
        while (batch := self._engine.plan(time.monotonic())) is not None or running is not None:
            before, running = running, None
            if batch is not None:
                with self._in_runner():
                    running = batch, self._runner.launch(batch, None if not before else before[1])
            if before is not None:
                with self._in_runner():
                    output = before[1].result()
                self._engine.commit(before[0], output, time.monotonic())
                yield before[0]

    @contextmanager
    def _in_runner(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.run_s += time.perf_counter() - begin


def transformers_generate(
    folder: Path, device: str, dtype: torch.dtype
) -> Callable[[Prompts, int], list[list[int]]]:
    """generate() of the same model on a static batch of prompts of one length."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)

    def generate(prompts: Prompts, output_tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts, device=device)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=output_tokens,
                do_sample=False,
                eos_token_id=None,
            )
        answers: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return answers

    return generate


def compare(
    loop: EngineLoop,
    reference: Callable[[Prompts, int], list[list[int]]],
    concurrency: int,
    options: argparse.Namespace,
) -> Comparison:
    """Alternates the two sides on fresh prompts: a repeated one would be in the prefix cache."""
    rng = random.Random(options.seed)
    ours, theirs, host, first, following = [], [], [], [], []
    for round_number in range(options.rounds + 1):
        prompts = [
            [rng.randrange(5, options.vocab) for _ in range(options.prompt)]
            for _ in range(concurrency)
        ]
        loop.reset()
        seconds, answers = _timed(loop.generate, prompts, options.output)
        reference_seconds, expected = _timed(reference, prompts, options.output)
        if answers != expected:
            print(f"note: answers differ in round {round_number}", file=sys.stderr)
        if round_number:  # the first one warms up
            ours.append(seconds)
            theirs.append(reference_seconds)
            host.append((seconds - loop.run_s) / loop.steps)
            first += [times[0] for times in loop.token_times]
            following += [b - a for times in loop.token_times for a, b in pairwise(times)]
    tokens = concurrency * options.output
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    return Comparison(
        concurrency=concurrency,
        prompt_tokens=options.prompt,
        output_tokens=options.output,
        mserve_tokens_per_s=tokens / ours_s,
        transformers_tokens_per_s=tokens / theirs_s,
        ratio=theirs_s / ours_s,
        first_token_ms=1e3 * statistics.median(first),
        next_token_ms=1e3 * statistics.median(following),
        host_us_per_step=1e6 * statistics.median(host),
        host_overhead=statistics.median(host) * loop.steps / ours_s,
    )


def time_steps(
    loops: dict[bool, EngineLoop], concurrency: int, options: argparse.Namespace
) -> list[StepTimes]:
    """Of the plain and the overlapped loop, in turn, on the same prompts."""
    rng = random.Random(options.seed)
    found: dict[bool, list[tuple[float, float]]] = {overlaps: [] for overlaps in loops}
    for _ in range(options.rounds + 1):
        prompts = [
            [rng.randrange(5, options.vocab) for _ in range(options.prompt)]
            for _ in range(concurrency)
        ]
        answers = []
        for overlaps, loop in loops.items():
            loop.reset()
            seconds, answer = _timed(loop.generate, prompts, options.output)
            answers.append(answer)
            found[overlaps].append((seconds / loop.steps, (seconds - loop.run_s) / loop.steps))
        assert answers[0] == answers[-1], "the loops answer differently"
    return [
        StepTimes(
            concurrency,
            overlaps,
            step_us=1e6 * statistics.median(step for step, _ in rounds[1:]),
            host_us=1e6 * statistics.median(host for _, host in rounds[1:]),
        )
        for overlaps, rounds in found.items()
    ]


def _timed(
    generate: Callable[[Prompts, int], list[list[int]]], prompts: Prompts, output_tokens: int
) -> tuple[float, list[list[int]]]:
    begin = time.perf_counter()
    answers = generate(prompts, output_tokens)
    return time.perf_counter() - begin, answers


def report(comparisons: list[Comparison], gaps: list[Gaps], steps: list[StepTimes]) -> None:
    print(
        f"{'concurrent':>10} {'mserve tok/s':>14} {'transformers':>14} {'ratio':>7}"
        f" {'first':>9} {'next':>9} {'host/step':>16}"
    )
    for c in comparisons:
        host = f"{c.host_us_per_step:.0f} us ({c.host_overhead:.1%})"
        print(
            f"{c.concurrency:>10} {c.mserve_tokens_per_s:>14.0f}"
            f" {c.transformers_tokens_per_s:>14.0f} {c.ratio:>7.2f}"
            f" {c.first_token_ms:>6.1f} ms {c.next_token_ms:>6.2f} ms {host:>16}"
        )
    for row in gaps:
        print(
            f"while prompts of {LONG_PROMPTS.prompt} tokens come in chunks of {row.chunk_tokens}:"
            f" {row.p50_ms:.1f} ms between tokens, {row.p99_ms:.1f} ms at the 99th percentile"
        )
    for one in steps:
        print(
            f"{one.concurrency:>4} concurrent, {'overlapped' if one.overlaps else 'plain':>10}:"
            f" {one.step_us:.0f} us per step, {one.host_us:.0f} us of them outside of the runner"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="engine tokens per second against transformers")
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--gaps", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    tokens = max(options.concurrency) * (options.prompt + options.output + PAGE_SIZE)
    runner = load_runner(
        options.model,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        page_size=PAGE_SIZE,
        num_pages=max(2 * tokens // PAGE_SIZE, 1024),
    )
    options.vocab = runner.config.vocab_size
    loop = EngineLoop(runner)
    dtype: torch.dtype = getattr(torch, options.dtype)
    reference = transformers_generate(options.model, options.device, dtype)
    comparisons = [compare(loop, reference, n, options) for n in options.concurrency]
    gaps = compare_gaps(runner, LONG_PROMPTS) if options.gaps else []
    loops = {overlaps: EngineLoop(runner, overlaps=overlaps) for overlaps in (False, True)}
    steps = [row for n in options.concurrency for row in time_steps(loops, n, options)]
    report(comparisons, gaps, steps)
    write_record(
        options.json,
        "engine tokens per second against transformers",
        ["mserve", "torch", "transformers"],
        threads=options.threads,
        rounds=options.rounds,
        device=options.device,
        dtype=options.dtype,
        comparisons=[asdict(comparison) for comparison in comparisons],
        gaps=[asdict(row) for row in gaps],
        steps=[asdict(row) for row in steps],
    )


if __name__ == "__main__":
    main()
