"""The commands `mserve simulate` and `mserve compare`: what strategies would do on a cluster.

Reads the command line, runs simulations one after the other, prints what came of them. Knows no cost
and no measure: runtime/simulator/ and runtime/traffic/ have them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli.strategies import Commands, servable

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.pools import WorkerOptions
    from mserve.runtime.simulator.simulation import Result
    from mserve.runtime.traffic.arrivals import Arrival
    from mserve.runtime.traffic.outcomes import Goals, Outcome, Summary

LINKS = ("network", "peer")


def add_commands(commands: Commands) -> None:
    _add_simulate(commands)
    _add_compare(commands)


def _add_simulate(commands: Commands) -> None:
    parser = commands.add_parser(
        "simulate",
        help="what a strategy would do on a cluster, without one",
        description="Runs a strategy under traffic in virtual time: the router's, scheduler's and"
        " cache's own code over a model of what steps and transfers cost (docs/simulator.md).",
    )
    parser.add_argument("file", metavar="FILE", help="a file, or the name of a shipped strategy")
    _add_traffic(parser)
    _add_cluster(parser)
    parser.add_argument("--seed", type=int, default=0, help="of traffic (default: %(default)s)")
    parser.add_argument(
        "--sweep", metavar="PARAM=LOW..HIGH:N", help="N values side by side: tail=0%%..50%%:6"
    )
    _add_output(parser)
    parser.set_defaults(run=_simulate)


def _add_compare(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="several strategies under the same traffic, side by side",
        description="Simulates each strategy under the same traffic. The star is for the one that"
        " is best with every seed.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, or the name of a shipped strategy"
    )
    _add_traffic(parser)
    _add_cluster(parser)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="of traffic (default: %(default)s)"
    )
    _add_output(parser)
    parser.set_defaults(run=_compare)


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("traffic")
    group.add_argument(
        "--trace",
        required=True,
        metavar="SPEC",
        help="a file, or a generator with its settings, as poisson:rate=5,input=3000,output=100",
    )
    group.add_argument("--rate", type=float, metavar="R", help="requests per second on average")
    group.add_argument("--speed", type=float, metavar="S", help="2 makes times half as long")
    group.add_argument("--limit", type=int, metavar="N", help="of all, the first N requests")
    group.add_argument("--duration", metavar="TIME", help="of those, the ones before TIME")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="POOL=COUNT",
        help="workers of a pool (default: what the strategy says)",
    )
    group.add_argument("--gpu", default="h200", help="(default: %(default)s)")
    group.add_argument(
        "--model", default="llama-3.1-8b", help="a known shape, or a folder (default: %(default)s)"
    )
    group.add_argument("--weights", default="bf16", help="their format (default: %(default)s)")
    group.add_argument(
        "--gpus-per-worker", type=int, metavar="N", help="(default: what the pool says)"
    )
    group.add_argument(
        "--link", choices=LINKS, default=LINKS[0], help="between workers (default: %(default)s)"
    )
    group.add_argument("--hardware", type=Path, metavar="TOML", help="GPUs and models of your own")
    _add_engine(group)
    group.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="'kill WORKER at TIME'",
        help="what goes wrong: 'kill decode-1 at 30s'",
    )


def _add_engine(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--page-size", type=int, metavar="TOKENS", help="(default: the traffic's blocks)"
    )
    for flag, default in (("--max-batch-tokens", 8192), ("--chunk-tokens", 8192)):
        group.add_argument(
            flag, type=int, default=default, metavar="TOKENS", help="(default: %(default)s)"
        )
    group.add_argument(
        "--max-running", type=int, default=256, metavar="N", help="(default: %(default)s)"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="change a param, within its range: tail=20%%",
    )
    parser.add_argument(
        "--slo", metavar="GOALS", help="what goodput counts, as ttft=500ms,tpot=50ms,jct=10s"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a report with charts")


# --- the commands -------------------------------------------------------------------------------


def _simulate(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    _set_params(strategy, arguments.set)
    if arguments.sweep:
        return _sweep(strategy, arguments)
    result = _run(strategy, arguments, arguments.seed)
    print(_result_text(result, _goals(arguments.slo), arguments.format))
    _write_page(arguments, {strategy.name: result.outcomes})
    return 0


def _sweep(strategy: "CompiledStrategy", arguments: argparse.Namespace) -> int:
    outcomes: dict[str, Sequence[Outcome]] = {}
    param, values = _swept(strategy, arguments.sweep)
    for value in values:
        strategy.set_param(param, value)
        name = f"{param}={strategy.spell(param, value)}"
        outcomes[name] = _run(strategy, arguments, arguments.seed).outcomes
    _print_comparison(arguments, {name: [each] for name, each in outcomes.items()})
    _write_page(arguments, outcomes)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from mserve.runtime.errors import ConfigError

    if arguments.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {arguments.seeds}.")
    runs: dict[str, list[Sequence[Outcome]]] = {}
    for file in arguments.files:
        strategy = servable(file)
        if strategy is None:
            return 1
        _set_params(strategy, [each for each in arguments.set if _has(strategy, each)])
        seeds = range(arguments.seeds)
        runs[file] = [_run(strategy, arguments, seed).outcomes for seed in seeds]
    _print_comparison(arguments, runs)
    _write_page(arguments, {name: outcomes[0] for name, outcomes in runs.items()})
    return 0


def _has(strategy: "CompiledStrategy", given: str) -> bool:
    """Strategies that are compared need not have the same params."""
    return given.partition("=")[0].strip() in strategy.params


def _run(strategy: "CompiledStrategy", arguments: argparse.Namespace, seed: int) -> "Result":
    from mserve.runtime.simulator.faults import fault
    from mserve.runtime.simulator.hardware import load_hardware
    from mserve.runtime.simulator.pools import plan_workers
    from mserve.runtime.simulator.simulation import Simulation

    first, arrivals = _traffic(arguments, seed)
    options = _worker_options(arguments, first.block_tokens)
    known = {pool.name for pool in strategy.pools}
    counts = _counts(arguments.cluster)
    if arguments.run is _compare:
        counts = {pool: count for pool, count in counts.items() if pool in known}
    specs = plan_workers(strategy.pools, counts, options, load_hardware(arguments.hardware))
    faults = [fault(text) for text in arguments.fault]
    with _Progress() as progress:
        return Simulation(strategy, specs, faults=faults).run(arrivals, progress.show)


# --- the command line ---------------------------------------------------------------------------


def _traffic(arguments: argparse.Namespace, seed: int) -> "tuple[Arrival, Iterator[Arrival]]":
    """The first arrival, and all of them. Raises ConfigError."""
    import itertools

    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.arrivals import scaled
    from mserve.runtime.traffic.objectives import seconds
    from mserve.runtime.traffic.spec import traffic
    from mserve.runtime.traffic.traces import ReadOptions

    _check_scaling(arguments)
    duration: str | None = arguments.duration
    arrivals = scaled(
        traffic(arguments.trace, ReadOptions(seed=seed), seed),
        rate=arguments.rate,
        speed=arguments.speed or 1.0,
        limit=arguments.limit,
        duration_s=seconds(duration, "--duration") if duration else None,
    )
    first = next(arrivals, None)
    if first is None:
        raise ConfigError(f"There is no request in {arguments.trace!r}.")
    return first, itertools.chain([first], arrivals)


def _check_scaling(arguments: argparse.Namespace) -> None:
    from mserve.runtime.errors import ConfigError

    for flag in ("rate", "speed", "limit"):
        value = getattr(arguments, flag)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{flag} must be above 0, not {value}.")
    if arguments.rate is not None and arguments.speed is not None:
        raise ConfigError("--rate and --speed both set when requests arrive: give one of them.")


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


def _set_params(strategy: "CompiledStrategy", given: Sequence[str]) -> None:
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        strategy.set_param(name, _value(strategy, name, value))


def _value(strategy: "CompiledStrategy", param: str, text: str) -> float:
    """In base units. Raises ConfigError for an unknown param, or a value out of its range."""
    from mserve.compiler.givens import GivenError, situation_from_text
    from mserve.runtime.errors import ConfigError

    try:
        return situation_from_text(strategy, params=[f"{param}={text}"]).params[param]
    except GivenError as error:
        raise ConfigError(f"{error}.") from None


def _swept(strategy: "CompiledStrategy", text: str) -> tuple[str, list[float]]:
    """The param, and its values, evenly spread. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    param, _, rest = (part.strip() for part in text.partition("="))
    bounds, _, count = rest.rpartition(":")
    low, dots, high = bounds.partition("..")
    if not dots or not count.isdecimal() or int(count) < 2:
        raise ConfigError(f"--sweep takes PARAM=LOW..HIGH:N, as tail=0%..50%:6, not {text!r}.")
    first, last = _value(strategy, param, low), _value(strategy, param, high)
    step = (last - first) / (int(count) - 1)
    return param, [first + step * index for index in range(int(count))]


def _goals(text: str | None) -> "Goals | None":
    from mserve.runtime.traffic.objectives import goals

    return None if text is None else goals(text)


# --- what came of it ----------------------------------------------------------------------------


class _Progress:
    """A line on standard error that shows how far it is; on a terminal only."""

    def __init__(self) -> None:
        self.show: Callable[[int, float], None] | None = None
        if sys.stderr.isatty():
            self.show = self._draw

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.show is not None:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _draw(self, num_ended: int, now_s: float) -> None:
        text = f"{num_ended:,} requests ended, {now_s:,.0f} s simulated"
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def _result_text(result: "Result", goals: "Goals | None", style: str) -> str:
    from mserve.runtime.simulator.report import result_json, result_table

    if style == "json":
        return json.dumps(result_json(result, goals), indent=2)
    return result_table(result, goals)


def _print_comparison(
    arguments: argparse.Namespace, runs: "Mapping[str, Sequence[Sequence[Outcome]]]"
) -> None:
    from mserve.runtime.simulator.comparison import comparison_json, comparison_table
    from mserve.runtime.traffic.outcomes import summarize

    goals = _goals(arguments.slo)
    summaries: dict[str, list[Summary]] = {
        name: [summarize(outcomes, goals) for outcomes in seeds] for name, seeds in runs.items()
    }
    if arguments.format == "json":
        print(json.dumps(comparison_json(summaries, goals), indent=2))
    else:
        print(comparison_table(summaries, goals))


def _write_page(arguments: argparse.Namespace, runs: "Mapping[str, Sequence[Outcome]]") -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.page import write_page

    path: Path | None = arguments.html
    if path is None:
        return
    title = f"{', '.join(runs)} simulated on {arguments.gpu} with {arguments.trace}"
    try:
        path.write_text(write_page(title, runs, _goals(arguments.slo)), "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
