"""The commands `mserve simulate` and `mserve compare`: what strategies would do on a cluster.

Reads the command line, runs simulations one after the other, prints what came of them. Knows no cost
and no measure: runtime/simulator/ and runtime/traffic/ have them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli import scenario
from mserve.runtime.cli.strategies import Commands, servable

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.priced_worker import OnRun
    from mserve.runtime.simulator.results import Result
    from mserve.runtime.traffic.outcomes import Goals, Outcome, Summary


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
    scenario.add_traffic(parser)
    scenario.add_cluster(parser)
    parser.add_argument("--seed", type=int, default=0, help="of traffic (default: %(default)s)")
    parser.add_argument(
        "--sweep", metavar="PARAM=LOW..HIGH:N", help="N values side by side: tail=0%%..50%%:6"
    )
    parser.add_argument(
        "--chrome", type=Path, metavar="OUT", help="write every worker's steps as a Chrome trace"
    )
    _add_output(parser)
    parser.set_defaults(run=_simulate, passes_over_pools=False)


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
    scenario.add_traffic(parser)
    scenario.add_cluster(parser)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="of traffic (default: %(default)s)"
    )
    _add_output(parser)
    parser.set_defaults(run=_compare, passes_over_pools=True)


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
    from mserve.runtime.simulator.chrome import ChromeTrace

    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    _set_params(strategy, arguments.set)
    if arguments.sweep:
        return _sweep(strategy, arguments)
    trace = ChromeTrace()
    result = _run(strategy, arguments, arguments.seed, trace.record if arguments.chrome else None)
    print(_result_text(result, _goals(arguments.slo), arguments.format))
    _write_page(arguments, {strategy.name: result.outcomes})
    if arguments.chrome is not None:
        _write(arguments.chrome, trace.json())
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
    strategies = {file: servable(file) for file in arguments.files}
    runs: dict[str, list[Sequence[Outcome]]] = {}
    pools = {pool.name for each in strategies.values() if each is not None for pool in each.pools}
    params = {name for each in strategies.values() if each is not None for name in each.params}
    _check_known("pool", arguments.cluster, pools)
    _check_known("param", arguments.set, params)
    for file, strategy in strategies.items():
        if strategy is None:
            return 1
        _set_params(strategy, [each for each in arguments.set if _has(strategy, each)])
        seeds = range(arguments.seeds)
        runs[file] = [_run(strategy, arguments, seed).outcomes for seed in seeds]
    _print_comparison(arguments, runs)
    _write_page(arguments, {name: outcomes[0] for name, outcomes in runs.items()})
    return 0


def _check_known(kind: str, given: Sequence[str], known: Collection[str]) -> None:
    """Strategies that are compared need not have the same pools and params; but one must have each.
    Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    for name in (text.partition("=")[0].strip() for text in given):
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"None of these strategies has a {kind} {name!r}; they have {has}.")


def _has(strategy: "CompiledStrategy", given: str) -> bool:
    return given.partition("=")[0].strip() in strategy.params


def _run(
    strategy: "CompiledStrategy",
    arguments: argparse.Namespace,
    seed: int,
    on_run: "OnRun | None" = None,
) -> "Result":
    simulation, arrivals = scenario.prepared(strategy, arguments, seed, on_run)
    with _Progress() as progress:
        return simulation.run(arrivals, progress.show)


# --- the command line ---------------------------------------------------------------------------


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
    from mserve.runtime.traffic.page import write_page

    if arguments.html is not None:
        where = arguments.profile or arguments.gpu
        title = f"{', '.join(runs)} simulated on {where} with {arguments.trace}"
        _write(arguments.html, write_page(title, runs, _goals(arguments.slo)))


def _write(path: Path, text: str) -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
