"""What `mserve simulate` and `mserve compare` simulate: traffic and cluster, by their arguments.

Adds the arguments to a parser and makes a simulation of them. Knows no strategy's params, and not what
becomes of results.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli import traffic

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.faults import RandomFaults, TimedFault
    from mserve.runtime.simulator.pools import WorkerOptions
    from mserve.runtime.simulator.priced_worker import WorkerSpec
    from mserve.runtime.simulator.simulation import Listeners, Simulation
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


def add_traffic(parser: argparse.ArgumentParser) -> None:
    traffic.add_traffic(parser)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="POOL=COUNT",
        help="workers of a pool (default: what the strategy says)",
    )
    group.add_argument("--gpu", help="(default: %(default)s)")
    group.add_argument("--model", help="a known shape, or a folder (default: %(default)s)")
    group.add_argument("--weights", help="their format (default: %(default)s)")
    group.add_argument(
        "--gpus-per-worker", type=int, metavar="N", help="(default: what the pool says)"
    )
    group.add_argument("--link", choices=LINKS, help="between workers (default: %(default)s)")
    group.add_argument("--hardware", type=Path, metavar="TOML", help="GPUs and models of your own")
    group.add_argument(
        "--profile",
        type=Path,
        metavar="PROFILE",
        help="workers as `mserve calibrate` measured them; then no GPU, model or engine is given",
    )
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
        "--page-size", type=int, metavar="TOKENS", help="(default: the traffic's blocks)"
    )
    for flag in ("--max-batch-tokens", "--chunk-tokens"):
        group.add_argument(flag, type=int, metavar="TOKENS", help="(default: %(default)s)")
    group.add_argument("--max-running", type=int, metavar="N", help="(default: %(default)s)")


def prepared(
    strategy: "CompiledStrategy",
    arguments: argparse.Namespace,
    seed: int,
    listeners: "Listeners | None" = None,
) -> "tuple[Simulation, Iterator[Arrival]]":
    """A simulation, and what to run it with. Pools that the strategy does not have are passed over
    where `arguments.passes_over_pools`. Raises ConfigError."""
    from mserve.runtime.simulator.faults import fault, schedule
    from mserve.runtime.simulator.simulation import NOBODY, Simulation

    faults: list[TimedFault | RandomFaults] = [fault(text) for text in arguments.fault]
    first, arrivals = _traffic(arguments, seed)
    specs, request_s = _workers(strategy, arguments, first.block_tokens)
    simulation = Simulation(
        strategy,
        specs,
        faults=schedule(faults, [spec.name for spec in specs], seed),
        request_s=request_s,
        listeners=listeners or NOBODY,
    )
    return simulation, arrivals


def _workers(
    strategy: "CompiledStrategy", arguments: argparse.Namespace, block_tokens: int
) -> "tuple[Sequence[WorkerSpec], Callable[[int], float]]":
    """On GPUs by name, or as they were measured, with what a request takes beside their steps, by its
    prompt's tokens. Raises ConfigError."""
    from mserve.runtime.simulator.hardware import load_hardware
    from mserve.runtime.simulator.pools import plan_measured, plan_workers
    from mserve.runtime.simulator.profile import read_profile

    counts = _counts(arguments.cluster)
    if arguments.passes_over_pools:
        known = {pool.name for pool in strategy.pools}
        counts = {pool: count for pool, count in counts.items() if pool in known}
    if arguments.profile is None:
        options = _worker_options(arguments, block_tokens)
        hardware = load_hardware(arguments.hardware)
        return plan_workers(strategy.pools, counts, options, hardware), lambda num_prompt: 0.0
    _check_profile_alone(arguments)
    profile = read_profile(arguments.profile)
    return plan_measured(strategy.pools, counts, profile), profile.request.time


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


def _counts(given: Sequence[str]) -> dict[str, int]:
    """From POOL=COUNT. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    counts: dict[str, int] = {}
    for text in given:
        pool, _, count = (part.strip() for part in text.partition("="))
        if not pool or not count.isdecimal():
            raise ConfigError(f"--cluster takes POOL=COUNT, not {text!r}.")
        counts[pool] = int(count)
    return counts
