"""How near one GPU comes to what it can do at most: decode against copying, prefill against products.

Each command measures one thing and writes one JSON file; bench/gpu.sh runs them all. Weights are
random, of a published shape. A decode step must read every weight but the embedding's rows, and all
KV: with the measured rate of a copy that is the time it cannot beat.

    python bench/gpu_speed.py limits | decode | prefill [--json FILE]
"""

import argparse
import random
import statistics
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from engine import EngineLoop
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.loading import load_runner
from mserve.runtime.engine.model_config import ModelConfig
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling
from record import write_record

PAGE_SIZE = 16
PACKAGES = ["mserve", "torch", "flashinfer-python", "transformers"]


@dataclass(frozen=True, slots=True)
class Limits:
    copy_bytes_per_s: float  # read and written bytes together
    matmul_flops: float  # multiplications and additions


@dataclass(frozen=True, slots=True)
class Decode:
    """Medians. `bound` is the share of the copying limit that a step reaches; `host_overhead` the
    share of the engine's step in which the recorded step does not run."""

    batch: int
    context: int
    recorded: bool
    runner_step_s: float
    engine_step_s: float
    replay_s: float | None  # of the recorded step alone
    tokens_per_s: float
    bytes_moved: int
    bound: float
    host_overhead: float | None


@dataclass(frozen=True, slots=True)
class Prefill:
    tokens: int
    seconds: float
    tokens_per_s: float
    flops: float
    bound: float  # share of the measured rate of products


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one run, by the host's clock, with the device idle before and after."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure_limits(device: torch.device, dtype: torch.dtype, size: int) -> Limits:
    """A copy of 64 MiB times `size` and a product of matrices of 1,024 times `size`."""
    source = torch.zeros(size << 26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    edge = 1024 * size
    left, right = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)

    def copy() -> None:
        for _ in range(8):
            target.copy_(source)

    def multiply() -> None:
        for _ in range(8):
            torch.mm(left, right, out=product)

    for work in (copy, multiply):
        median_s(work, device, 2)
    return Limits(
        copy_bytes_per_s=8 * 2 * len(source) / median_s(copy, device, 10),
        matmul_flops=8 * 2 * edge**3 / median_s(multiply, device, 10),
    )


def product_parameters(config: ModelConfig) -> int:
    """Weights of all layers' products: each multiplies every token once."""
    per_head = config.hidden_size * config.head_dim
    attention = 2 * per_head * (config.num_heads + config.num_kv_heads)
    return config.num_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def bytes_of_step(runner: TorchRunner, batch: int, context: int) -> int:
    """Weights of the layers and the head, and the KV that is read."""
    config, pool = runner.config, runner.pool
    weights = product_parameters(config) + config.vocab_size * config.hidden_size
    kv = batch * context * pool.num_layers * pool.bytes_per_token_layer
    return weights * pool.tensor.element_size() + kv


def decode_batch(runner: TorchRunner, batch: int, context: int, room: int) -> list[Sequence]:
    """Sequences of `context` tokens whose KV is whatever lies in their pages; `room` more fit."""
    rng = random.Random(0)
    each = -(-(context + room) // PAGE_SIZE)
    pages = list(range(batch * each))
    rng.shuffle(pages)
    sequences = []
    for index in range(batch):
        tokens = array("i", [rng.randrange(5, runner.config.vocab_size) for _ in range(context)])
        sequences.append(
            Sequence(
                f"s{index}",
                tokens,
                context - 1,
                generate_step="generate",
                sampling=Sampling(max_tokens=room, temperature=0.0, ignore_eos=True),
                pages=array("i", pages[index * each : (index + 1) * each]),
                num_computed=context - 1,
            )
        )
    return sequences


def step(runner: TorchRunner, sequences: list[Sequence]) -> None:
    drawn = runner.run(Batch((), tuple(sequences))).tokens or []
    for sequence, token in zip(sequences, drawn, strict=True):
        sequence.num_computed += 1
        sequence.tokens.append(token)


def measure_decode(
    runner: TorchRunner, limits: Limits, batch: int, options: argparse.Namespace
) -> Decode:
    device, steps = runner.pool.tensor.device, options.steps
    sequences = decode_batch(runner, batch, options.context, 3 * steps)
    for _ in range(steps):
        step(runner, sequences)
    runner_s = median_s(lambda: step(runner, sequences), device, steps)
    replay_s = None
    if runner.graphs is not None:
        replay_s = median_s(runner.graphs.replay_of(batch), device, steps)
    engine_s = engine_step_s(runner, batch, options)
    moved = bytes_of_step(runner, batch, options.context + 3 * steps // 2)
    return Decode(
        batch=batch,
        context=options.context,
        recorded=runner.graphs is not None,
        runner_step_s=runner_s,
        engine_step_s=engine_s,
        replay_s=replay_s,
        tokens_per_s=batch / engine_s,
        bytes_moved=moved,
        bound=moved / limits.copy_bytes_per_s / engine_s,
        host_overhead=None if replay_s is None else 1 - replay_s / engine_s,
    )


def engine_step_s(runner: TorchRunner, batch: int, options: argparse.Namespace) -> float:
    """The median step of decodes alone, with the engine's scheduling around the runner."""
    rng = random.Random(1)
    prompts = [
        [rng.randrange(5, runner.config.vocab_size) for _ in range(options.context)]
        for _ in range(batch)
    ]
    loop = EngineLoop(runner, max_running=batch, prefix_cache=False)
    # The first ones answer while the last ones' prompts are still computed.
    mixed_steps = 2 * batch * options.context // loop.max_batch_tokens
    loop.generate(prompts, options.steps + mixed_steps)
    seconds = [taken for count, taken in loop.decode_steps if count == batch]
    assert seconds, "the batch was never whole"
    return statistics.median(seconds[-options.steps :])


def measure_prefill(runner: TorchRunner, limits: Limits, tokens: int, repeats: int) -> Prefill:
    config = runner.config
    pages = array("i", range(-(-tokens // PAGE_SIZE)))
    ids = array("i", [random.Random(0).randrange(5, config.vocab_size) for _ in range(tokens)])
    sampling = Sampling(max_tokens=1, temperature=0.0)
    sequence = Sequence("prompt", ids, tokens, sampling=sampling, pages=pages)
    batch = Batch((Chunk(sequence, 0, tokens, sample=True),), ())
    median_s(lambda: runner.run(batch), runner.pool.tensor.device, 2)
    seconds = median_s(lambda: runner.run(batch), runner.pool.tensor.device, repeats)
    pairs = tokens * (tokens + 1) / 2  # of query and key, causally
    attention = 4 * pairs * config.num_heads * config.head_dim * config.num_layers
    head = 2 * config.vocab_size * config.hidden_size  # one row
    flops = 2 * product_parameters(config) * tokens + attention + head
    return Prefill(tokens, seconds, tokens / seconds, flops, flops / seconds / limits.matmul_flops)


def load(options: argparse.Namespace, num_tokens: int, graphs: bool = True) -> TorchRunner:
    return load_runner(
        options.model,
        load="dummy",
        device=options.device,
        dtype=options.dtype,
        page_size=PAGE_SIZE,
        num_pages=num_tokens // PAGE_SIZE + 1,
        max_running=max(options.batch),
        graphs=graphs,
    )


def run_decode(options: argparse.Namespace, limits: Limits) -> dict[str, object]:
    room = max(options.batch) * (options.context + 3 * options.steps + 2 * PAGE_SIZE)
    recorded = load(options, room)
    found = [measure_decode(recorded, limits, batch, options) for batch in options.batch]
    if recorded.graphs is not None:
        launched = TorchRunner(recorded.model, recorded.pool, recorded.attention, recorded.sampler)
        found += [measure_decode(launched, limits, batch, options) for batch in options.batch]
    for each in found:
        kind = "recorded" if each.recorded else "launched"
        host = "" if each.host_overhead is None else f", host {each.host_overhead:.1%}"
        print(
            f"decode {each.batch:>3} x {each.context}, {kind}: {1e3 * each.engine_step_s:.2f} ms,"
            f" {each.tokens_per_s:.0f} tokens/s, {each.bound:.0%} of the copying limit{host}"
        )
    return {"decode": [asdict(each) for each in found]}


def run_prefill(options: argparse.Namespace, limits: Limits) -> dict[str, object]:
    runner = load(options, max(options.prefill), graphs=False)
    found = [measure_prefill(runner, limits, tokens, options.steps) for tokens in options.prefill]
    for each in found:
        print(
            f"prefill {each.tokens}: {1e3 * each.seconds:.1f} ms, {each.tokens_per_s:.0f} tokens/s,"
            f" {each.bound:.0%} of the measured rate of products"
        )
    return {"prefill": [asdict(each) for each in found]}


def run_limits(options: argparse.Namespace, limits: Limits) -> dict[str, object]:
    return {}


def main() -> None:
    commands = {"limits": run_limits, "decode": run_decode, "prefill": run_prefill}
    parser = argparse.ArgumentParser(description="one GPU against its measured limits")
    parser.add_argument("command", choices=commands)
    parser.add_argument("--model", default="llama-3.1-8b", help="a shape's name or a folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=1024, help="tokens before the first step")
    parser.add_argument("--prefill", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=8, help="of the limits' copies and products")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    device = torch.device(options.device)
    limits = measure_limits(device, getattr(torch, options.dtype), options.size)
    print(
        f"limits: {limits.copy_bytes_per_s / 1e12:.2f} TB/s copied,"
        f" {limits.matmul_flops / 1e12:.0f} TFLOP/s multiplied"
    )
    figures = commands[options.command](options, limits)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    write_record(
        options.json,
        "one GPU against its measured limits",
        PACKAGES,
        device=name,
        model=options.model,
        dtype=options.dtype,
        limits=asdict(limits),
        **figures,
    )


if __name__ == "__main__":
    main()
