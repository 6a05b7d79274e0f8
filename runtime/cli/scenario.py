"""What `mserve simulate` and `mserve compare` simulate: traffic and cluster, by their arguments.

Adds the arguments to a parser, says how many workers a strategy then has, and makes a simulation of them.
Knows no strategy's params, and not what becomes of results.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli import traffic
from mserve.runtime.cli.remarks import add_price

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.faults import RandomFaults, TimedFault
    from mserve.runtime.simulator.pools import WorkerOptions
    from mserve.runtime.simulator.priced_worker import WorkerSpec
    from mserve.runtime.simulator.simulation import Listeners, Simulation
    from mserve.runtime.simulator.sizes import ClusterSize
    from mserve.runtime.traffic.arrivals import Arrival

LINKS = ("network", "peer")
HARDWARE_DEFAULTS: Mapping[str, object] = {
    "gpu": "h200",
    "model": "llama-3.1-8b",
    "weights": "bf16",
    "gpus_per_worker": None,
    "link": LINKS[0],
    "hardware": None,
    "page_size": None,
    "max_batch_tokens": 8192,
    "chunk_tokens": 8192,
    "max_running": 256,
}

_COUNTS = ("gpus_per_worker", "page_size", "max_batch_tokens", "chunk_tokens", "max_running")


def add_traffic(parser: argparse.ArgumentParser) -> None:
    traffic.add_traffic(parser)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="N",
        help="so many workers, shared out over the strategy's pools; or those of each pool, as"
        " prefill=5,decode=3 (default: what the strategy says)",
    )
    group.add_argument(
        "--gpu",
        metavar="NAME",
        help="h200, h100, a100, l40s, a6000, or one of --hardware (default: %(default)s)",
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        help="llama-3.1-8b, llama-3.1-70b, qwen3-8b, qwen3-32b, mistral-7b, their names at Hugging"
        " Face, one of --hardware, or a folder with config.json (default: %(default)s)",
    )
    group.add_argument(
        "--weights", metavar="FORMAT", help="bf16, fp8 or one of --hardware (default: %(default)s)"
    )
    group.add_argument(
        "--gpus-per-worker",
        type=int,
        metavar="N",
        help="of tensor parallelism (default: what the pool says, or 1)",
    )
    group.add_argument(
        "--link",
        choices=LINKS,
        help="that KV takes between workers: of other hosts, or of one (default: %(default)s)",
    )
    group.add_argument(
        "--hardware", type=Path, metavar="TOML", help="a table of GPUs and models of your own"
    )
    group.add_argument(
        "--profile",
        type=Path,
        metavar="PROFILE",
        help="workers as `mserve calibrate` measured them; then no GPU, model or engine is given",
    )
    add_price(group)
    _add_engine(group)
    parser.set_defaults(**HARDWARE_DEFAULTS)
    group.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="what goes wrong: 'kill decode-1 at 30s', 'restart decode-1 at 60s', or by the seed:"
        " random:every=60s,repair=30s",
    )


def _add_engine(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--page-size",
        type=int,
        metavar="TOKENS",
        help="of KV (default: the traffic's blocks: 64 for most, 512 for Mooncake)",
    )
    group.add_argument(
        "--max-batch-tokens",
        type=int,
        metavar="TOKENS",
        help="most in a step, where the strategy sets no `batch` (default: %(default)s; `mserve"
        " serve` has 2048); fewer keep answers even",
    )
    group.add_argument(
        "--chunk-tokens",
        type=int,
        metavar="TOKENS",
        help="most of one prompt in a step (default: %(default)s; `mserve serve` has 512)",
    )
    group.add_argument(
        "--max-running",
        type=int,
        metavar="REQUESTS",
        help="most in a step of one worker (default: %(default)s)",
    )


# --- how many workers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What --cluster says: so many workers in all, or in these pools; neither is what strategies say."""

    num_workers: int | None
    pools: Mapping[str, int]


def wanted(arguments: argparse.Namespace) -> Wanted:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    pools: dict[str, int] = {}
    totals: list[int] = []
    for text in (part.strip() for given in arguments.cluster for part in given.split(",")):
        pool, equals, count = (part.strip() for part in text.rpartition("="))
        if not count.isdecimal() or bool(pool) != bool(equals):
            raise ConfigError(
                f"--cluster takes a number of workers, or those of pools as prefill=5,decode=3,"
                f" not {text!r}."
            )
        if int(count) < 1:
            raise ConfigError(f"--cluster {text}: give at least one worker.")
        if pool in pools:
            raise ConfigError(f"--cluster is given {pool} twice: leave one out.")
        if pool:
            pools[pool] = int(count)
        else:
            totals.append(int(count))
    if len(totals) + bool(pools) > 1:
        raise ConfigError("--cluster takes one number for all pools, or one for each: not both.")
    return Wanted(totals[0] if totals else None, pools)


def cluster_size(strategy: "CompiledStrategy", arguments: argparse.Namespace) -> "ClusterSize":
    """What --cluster makes of a strategy's pools. Pools that it does not have are passed over where
    `arguments.passes_over_pools`. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.simulator.sizes import shared_out

    asked, known = wanted(arguments), [pool.name for pool in strategy.pools]
    if asked.num_workers is not None:
        return size_of(strategy, arguments, shared_out(strategy.pools, asked.num_workers))
    for pool in asked.pools:
        if pool not in known and not arguments.passes_over_pools:
            raise ConfigError(f"The strategy has no pool '{pool}'; it has {', '.join(known)}.")
    counts = {pool: count for pool, count in asked.pools.items() if pool in known}
    return size_of(strategy, arguments, counts)


def size_of(
    strategy: "CompiledStrategy", arguments: argparse.Namespace, counts: Mapping[str, int]
) -> "ClusterSize":
    """With `counts` before what pools say. Raises ConfigError."""
    from mserve.runtime.simulator.sizes import cluster_size

    gpus_each = arguments.gpus_per_worker
    _check_at_least_1(arguments)
    is_measured = arguments.profile is not None
    return cluster_size(strategy.pools, counts, gpus_each, measured=is_measured)


def _check_at_least_1(arguments: argparse.Namespace) -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    for name in _COUNTS:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")


# --- a simulation -------------------------------------------------------------------------------


def prepared(
    strategy: "CompiledStrategy",
    size: "ClusterSize",
    arguments: argparse.Namespace,
    seed: int,
    listeners: "Listeners | None" = None,
) -> "tuple[Simulation, Iterator[Arrival]]":
    """A simulation, and what to run it with. Raises ConfigError."""
    from mserve.runtime.simulator.faults import fault, schedule
    from mserve.runtime.simulator.simulation import NOBODY, Simulation

    faults: list[TimedFault | RandomFaults] = [fault(text) for text in arguments.fault]
    first, arrivals = _traffic(arguments, seed)
    specs, request_s = _workers(strategy, size, arguments, first.block_tokens)
    simulation = Simulation(
        strategy,
        specs,
        faults=schedule(faults, [spec.name for spec in specs], seed, strategy.name),
        request_s=request_s,
        listeners=listeners or NOBODY,
    )
    return simulation, arrivals


def _workers(
    strategy: "CompiledStrategy",
    size: "ClusterSize",
    arguments: argparse.Namespace,
    block_tokens: int,
) -> "tuple[Sequence[WorkerSpec], Callable[[int], float]]":
    """On GPUs by name, or as they were measured, with what a request takes beside their steps, by its
    prompt's tokens. Raises ConfigError."""
    from mserve.runtime.simulator.hardware import load_hardware
    from mserve.runtime.simulator.pools import plan_measured, plan_workers
    from mserve.runtime.simulator.profile import read_profile

    if arguments.profile is None:
        options = _worker_options(arguments, block_tokens)
        hardware = load_hardware(arguments.hardware)
        specs = plan_workers(strategy.pools, size.workers, options, hardware)
        return specs, lambda num_prompt: 0.0
    _check_profile_alone(arguments)
    profile = read_profile(arguments.profile)
    return plan_measured(strategy.pools, size.workers, profile), profile.request.time


def _check_profile_alone(arguments: argparse.Namespace) -> None:
    from mserve.runtime.errors import ConfigError

    for name, default in HARDWARE_DEFAULTS.items():
        if getattr(arguments, name) != default:
            flag = name.replace("_", "-")
            raise ConfigError(f"--profile says what the workers are: leave --{flag} out.")


def _traffic(arguments: argparse.Namespace, seed: int) -> "tuple[Arrival, Iterator[Arrival]]":
    """The first arrival, and all of them. Raises ConfigError."""
    import itertools

    from mserve.runtime.errors import ConfigError

    arrivals = traffic.traffic_options(arguments).arrivals(seed)
    first = next(arrivals, None)
    if first is None:
        raise ConfigError(f"There is no request in {arguments.trace!r}.")
    return first, itertools.chain([first], arrivals)


def _worker_options(arguments: argparse.Namespace, block_tokens: int) -> "WorkerOptions":
    from mserve.runtime.simulator.pools import WorkerOptions

    return WorkerOptions(
        gpu=arguments.gpu,
        model=arguments.model,
        weights=arguments.weights,
        gpus=arguments.gpus_per_worker,
        link=arguments.link,
        page_size=arguments.page_size or block_tokens,
        max_batch_tokens=arguments.max_batch_tokens,
        chunk_tokens=arguments.chunk_tokens,
        max_running=arguments.max_running,
    )
