"""The command `mserve simulate`: what a strategy would do on a cluster, with given traffic."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli.strategies import Commands, servable

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.pools import WorkerOptions
    from mserve.runtime.simulator.report import Report
    from mserve.runtime.traffic.arrivals import Arrival
    from mserve.runtime.traffic.outcomes import Goals

LINKS = ("network", "peer")


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser(
        "simulate",
        help="what a strategy would do on a cluster, without one",
        description="Runs a strategy under traffic in virtual time: the router's, scheduler's and"
        " cache's own code over a model of what steps and transfers cost (docs/simulator.md).",
    )
    parser.add_argument("file", metavar="FILE", help="a file, or the name of a shipped strategy")
    _add_traffic(parser)
    _add_cluster(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="change a param, within its range: tail=20%%",
    )
    parser.add_argument("--slo", help="goals of goodput: ttft=500ms,tpot=50ms")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.set_defaults(run=_simulate)


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace",
        required=True,
        metavar="SPEC",
        help="a trace's path, or poisson:rate=5,input=3000,output=100 and the like",
    )
    parser.add_argument("--rate", type=float, help="requests/s to scale the traffic to")
    parser.add_argument("--requests", type=int, metavar="N", help="only the first N")
    parser.add_argument("--seed", type=int, default=0, help="of traffic (default: %(default)s)")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="POOL=COUNT",
        help="workers of a pool (default: what the strategy says)",
    )
    parser.add_argument("--gpu", default="h200", help="(default: %(default)s)")
    parser.add_argument(
        "--model", default="llama-3.1-8b", help="a known shape, or a folder (default: %(default)s)"
    )
    parser.add_argument("--weights", default="bf16", help="their format (default: %(default)s)")
    parser.add_argument(
        "--gpus-per-worker", type=int, metavar="N", help="(default: what the pool says)"
    )
    parser.add_argument(
        "--link", choices=LINKS, default=LINKS[0], help="between workers (default: %(default)s)"
    )
    parser.add_argument("--hardware", type=Path, metavar="TOML", help="GPUs and models of your own")
    parser.add_argument(
        "--page-size", type=int, metavar="TOKENS", help="(default: the traffic's blocks)"
    )
    parser.add_argument("--max-batch-tokens", type=int, default=8192, metavar="TOKENS")
    parser.add_argument("--chunk-tokens", type=int, default=8192, metavar="TOKENS")
    parser.add_argument("--max-running", type=int, default=256, metavar="N")


def _simulate(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    _set_params(strategy, arguments.set)
    found = _run(strategy, arguments)
    print(_rendered(found, arguments.format))
    return 0


def _run(strategy: "CompiledStrategy", arguments: argparse.Namespace) -> "Report":
    from mserve.runtime.simulator.hardware import load_hardware
    from mserve.runtime.simulator.pools import plan_workers
    from mserve.runtime.simulator.report import report
    from mserve.runtime.simulator.simulation import Simulation

    goals = _goals(arguments.slo)
    first, arrivals = _traffic(arguments)
    options = _worker_options(arguments, first.block_tokens)
    counts = _counts(arguments.cluster)
    hardware = load_hardware(arguments.hardware)
    simulation = Simulation(strategy, plan_workers(strategy.pools, counts, options, hardware))
    result = simulation.run(arrivals, _progress())
    return report(strategy.name, result, goals)


def _traffic(arguments: argparse.Namespace) -> "tuple[Arrival, Iterator[Arrival]]":
    """The first arrival, and all of them."""
    import itertools

    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.arrivals import scaled
    from mserve.runtime.traffic.spec import traffic
    from mserve.runtime.traffic.traces import ReadOptions

    options = ReadOptions(seed=arguments.seed)
    found = traffic(arguments.trace, options, arguments.seed)
    arrivals = scaled(found, rate=arguments.rate, limit=arguments.requests)
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
        pool, _, count = text.partition("=")
        if not pool or not count.isdigit() or int(count) < 1:
            raise ConfigError(f"--cluster takes POOL=COUNT, not {text!r}.")
        counts[pool] = int(count)
    return counts


def _set_params(strategy: "CompiledStrategy", given: Sequence[str]) -> None:
    """Raises ConfigError for an unknown param, or a value out of its range."""
    from mserve.compiler.givens import GivenError, situation_from_text
    from mserve.runtime.errors import ConfigError

    try:
        params = situation_from_text(strategy, params=list(given)).params
    except GivenError as error:
        raise ConfigError(f"{error}.") from None
    for name in (text.partition("=")[0].strip() for text in given):
        strategy.set_param(name, params[name])


def _goals(text: str | None) -> "Goals | None":
    from mserve.runtime.traffic.objectives import goals

    return None if text is None else goals(text)


def _progress() -> Callable[[int, float], None] | None:
    """A line on stderr that is written over and over, if a person can see it."""
    if not sys.stderr.isatty():
        return None

    def show(num_ended: int, now_s: float) -> None:
        print(f"\r{num_ended:,} requests, {now_s:,.0f} s simulated", end="\r", file=sys.stderr)

    return show


def _rendered(found: "Report", style: str) -> str:
    import json

    from mserve.runtime.simulator.report import report_json, report_text

    if style == "json":
        return json.dumps(report_json(found), indent=2)
    return report_text(found)
