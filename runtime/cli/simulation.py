"""The commands `mserve simulate` and `mserve compare`: what strategies would do on a cluster.

Reads the command line, runs simulations one after the other, prints what came of them. Knows no cost
and no measure: runtime/simulator/ and runtime/traffic/ have them.
"""

import argparse
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli import pages, scenario
from mserve.runtime.cli.breakdown import in_words
from mserve.runtime.cli.output import StatusLine, add_output, goals_of, write_text
from mserve.runtime.cli.strategies import Commands, servable

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.plan_file import PlanShelf
    from mserve.runtime.simulator.results import Result
    from mserve.runtime.simulator.simulation import Listeners
    from mserve.runtime.traffic.outcomes import Summary


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
    parser.add_argument(
        "--why",
        action="append",
        default=[],
        metavar="REQUEST",
        help="show how this one was decided and carried out, by its number in the traffic, from 0",
    )
    parser.add_argument(
        "--plans", type=Path, metavar="OUT", help="write every request's plan, for `mserve why`"
    )
    _add_output(parser)
    parser.set_defaults(run=in_words(_simulate), passes_over_pools=False)


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
    parser.set_defaults(run=in_words(_compare), passes_over_pools=True)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="change a param, within its range: tail=20%%",
    )
    add_output(parser)


# --- the commands -------------------------------------------------------------------------------


def _simulate(arguments: argparse.Namespace) -> int:
    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    _set_params(strategy, arguments.set)
    if arguments.sweep:
        _check_single_run(arguments)
        return _sweep(strategy, arguments)
    return _simulate_once(strategy, arguments)


def _simulate_once(strategy: "CompiledStrategy", arguments: argparse.Namespace) -> int:
    from mserve.runtime.simulator.chrome import ChromeTrace
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.plan_file import PlanFile, PlanShelf, request_number
    from mserve.runtime.simulator.simulation import Listeners

    trace, lanes = ChromeTrace(), LaneRecorder()
    shelf = PlanShelf([request_number(text) for text in arguments.why])
    strategy.forecasts_all = bool(arguments.why or arguments.plans)
    with ExitStack() as files:
        on_plan = [shelf.add]
        if arguments.plans is not None:
            on_plan.append(files.enter_context(PlanFile(arguments.plans)).add)
        wanted = {trace.record: arguments.chrome, lanes.record: arguments.html}
        on_run = [record for record, path in wanted.items() if path is not None]
        listeners = Listeners(on_run, on_plan)
        result = _run(strategy, arguments, arguments.seed, listeners)
    if arguments.html is not None:
        pages.write_simulation(arguments, strategy.name, result, lanes)
    if arguments.chrome is not None:
        write_text(arguments.chrome, trace.json(result.faults))
    _print_result(arguments, result, shelf)
    return 0


def _check_single_run(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for what a sweep has not."""
    from mserve.runtime.errors import ConfigError

    for flag in ("why", "plans", "chrome"):
        if getattr(arguments, flag):
            raise ConfigError(
                f"--{flag} is about a single run, and --sweep makes several: give --set instead."
            )


def _sweep(strategy: "CompiledStrategy", arguments: argparse.Namespace) -> int:
    results: dict[str, Result] = {}
    param, values = _swept(strategy, arguments.sweep)
    for value in values:
        strategy.set_param(param, value)
        results[strategy.spell(param, value)] = _run(strategy, arguments, arguments.seed)
    named = {f"{param}={text}": [result] for text, result in results.items()}
    _print_comparison(arguments, named)
    if arguments.html is not None:
        pages.write_sweep(arguments, strategy.name, param, results)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.simulation import NOBODY, Listeners

    if arguments.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {arguments.seeds}.")
    strategies = {file: servable(file) for file in arguments.files}
    runs: dict[str, list[Result]] = {}
    lanes = {file: LaneRecorder() for file in arguments.files}
    pools = {pool.name for each in strategies.values() if each is not None for pool in each.pools}
    params = {name for each in strategies.values() if each is not None for name in each.params}
    _check_known("pool", arguments.cluster, pools)
    _check_known("param", arguments.set, params)
    for file, strategy in strategies.items():
        if strategy is None:
            return 1
        _set_params(strategy, [each for each in arguments.set if _has(strategy, each)])
        first = NOBODY if arguments.html is None else Listeners([lanes[file].record])
        further = [NOBODY] * (arguments.seeds - 1)
        runs[file] = [
            _run(strategy, arguments, seed, told) for seed, told in enumerate([first, *further])
        ]
    _print_comparison(arguments, runs)
    if arguments.html is not None:
        pages.write_comparison(arguments, runs, lanes)
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
    listeners: "Listeners | None" = None,
) -> "Result":
    """Raises KeyboardInterrupt that says how far it came."""
    simulation, arrivals = scenario.prepared(strategy, arguments, seed, listeners)
    progress = ""

    def show(num_ended: int, now_s: float) -> None:
        nonlocal progress
        progress = f"{num_ended:,} requests ended, {now_s:,.0f} s simulated"
        line.show(progress)

    with StatusLine() as line, _quiet():
        try:
            return simulation.run(arrivals, show)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(progress) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """What router and workers log is of no real cluster; results say what happened."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


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


# --- what came of it ----------------------------------------------------------------------------


def _print_result(arguments: argparse.Namespace, result: "Result", shelf: "PlanShelf") -> None:
    """Figures, then the plans that were asked for. Raises ConfigError for one of no request."""
    from mserve.runtime.router.timeline import render_timeline
    from mserve.runtime.simulator.plan_file import request_number
    from mserve.runtime.simulator.report import result_json, result_table

    goals = goals_of(arguments)
    asked = [request_number(text) for text in arguments.why]
    if arguments.format == "json":
        plans = {"plans": {number: shelf.plan(number) for number in asked}} if asked else {}
        print(json.dumps({**result_json(result, goals), **plans}, indent=2))
        return
    print(result_table(result, goals))
    for number in asked:
        print(f"\nrequest {number}, {render_timeline(shelf.plan(number))}")


def _print_comparison(
    arguments: argparse.Namespace, runs: "Mapping[str, Sequence[Result]]"
) -> None:
    from mserve.runtime.simulator.comparison import comparison_json, comparison_table
    from mserve.runtime.traffic.outcomes import summarize

    goals = goals_of(arguments)
    summaries: dict[str, list[Summary]] = {
        name: [summarize(result.outcomes, goals) for result in seeds]
        for name, seeds in runs.items()
    }
    if arguments.format == "json":
        print(json.dumps(comparison_json(summaries, goals), indent=2))
    else:
        print(comparison_table(summaries, goals))
