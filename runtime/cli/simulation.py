"""The command `mserve simulate`: what a strategy would do on a cluster.

Reads the command line, runs simulations one after the other, prints what came of them. Knows no cost
and no measure: runtime/simulator/ and runtime/traffic/ have them.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli import comparison, pages, scenario
from mserve.runtime.cli.breakdown import in_words
from mserve.runtime.cli.cases import Case, Column, Runner, summaries, swept_runs
from mserve.runtime.cli.jobs import add_jobs
from mserve.runtime.cli.output import add_output, check_writable, goals_of, seeds_of, write_text
from mserve.runtime.cli.remarks import check_chance, conclude, warnings
from mserve.runtime.cli.strategies import Commands, servable
from mserve.runtime.cli.sweeps import NO_SWEEP, Sweep, add_sweep, set_params, swept
from mserve.runtime.cli.traffic import check_numbers

if TYPE_CHECKING:
    from mserve.runtime.simulator.plan_file import PlanShelf
    from mserve.runtime.simulator.results import Result


def add_commands(commands: Commands) -> None:
    _add_simulate(commands)
    comparison.add_compare(commands)


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
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of traffic and random faults (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="simulate with N seeds, from --seed on, and show means (default: %(default)s)",
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
    add_sweep(parser)
    add_jobs(parser)
    add_output(parser)
    parser.set_defaults(run=in_words(_simulate), passes_over_pools=False)


def _simulate(arguments: argparse.Namespace) -> int:
    from mserve.runtime.simulator.plan_file import request_number

    strategy = servable(arguments.file)
    if strategy is None:
        return 1
    set_params(strategy, arguments.set)
    check_numbers(arguments, [request_number(text) for text in arguments.why])
    goals_of(arguments)  # wrong ones are refused before the work, not after it
    seeds, size = seeds_of(arguments), scenario.cluster_size(strategy, arguments)
    case = Case(strategy.name, arguments.file, strategy, dict(strategy.values), size)
    sweep = swept(arguments, {strategy.name: strategy})
    if arguments.html is not None:
        check_writable(arguments.html)
    if arguments.sweep or len(seeds) > 1:
        check_chance(arguments, len(seeds))
        _check_single_run(arguments)
        return _simulate_several(case, sweep, seeds, arguments)
    return _simulate_once(case, arguments)


def _check_single_run(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for what several runs do not have."""
    from mserve.runtime.errors import ConfigError

    several = "--sweep" if arguments.sweep else "--seeds"
    instead = "--set" if arguments.sweep else "--seed"
    for flag in ("why", "plans", "chrome"):
        if getattr(arguments, flag):
            raise ConfigError(
                f"--{flag} is about a single run, and {several} makes several: give {instead} instead."
            )


def _simulate_once(case: Case, arguments: argparse.Namespace) -> int:
    from mserve.runtime.simulator.chrome import ChromeTrace
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.plan_file import PlanFile, PlanShelf, request_number
    from mserve.runtime.simulator.simulation import Listeners

    trace, lanes = ChromeTrace(), LaneRecorder()
    wanted = {trace.record: arguments.chrome, lanes.record: arguments.html}
    on_run = [record for record, path in wanted.items() if path is not None]
    shelf = PlanShelf([request_number(text) for text in arguments.why])
    case.strategy.forecasts_all = bool(arguments.why or arguments.plans)
    with ExitStack() as files:
        on_plan = [shelf.add]
        if arguments.plans is not None:
            on_plan.append(files.enter_context(PlanFile(arguments.plans)).add)
        listeners = Listeners(on_run, on_plan)
        with Runner(arguments, 1) as runner:
            result = runner.run(case, NO_SWEEP.points[0], arguments.seed, listeners)
    if arguments.html is not None:
        pages.write_simulation(arguments, case, result, lanes)
    if arguments.chrome is not None:
        write_text(arguments.chrome, trace.json(result.faults))
    _print_result(arguments, case, result, shelf)
    return conclude({case.name: [result]})


def _print_result(
    arguments: argparse.Namespace, case: Case, result: "Result", shelf: "PlanShelf"
) -> None:
    """Figures, then the plans that were asked for. Raises ConfigError for one of no request."""
    from mserve.runtime.router.timeline import render_timeline
    from mserve.runtime.simulator.plan_file import request_number
    from mserve.runtime.simulator.report import result_json, result_table

    goals = goals_of(arguments)
    asked = [request_number(text) for text in arguments.why]
    if arguments.format == "json":
        plans = {"plans": {number: shelf.plan(number) for number in asked}} if asked else {}
        found = {"cluster": case.size.json(), **result_json(result, goals), **plans}
        print(json.dumps(found, indent=2))
        return
    print(f"{_heading(case)}\n{result_table(result, goals)}")
    for number in asked:
        print(f"\nrequest {number}, {render_timeline(shelf.plan(number))}")


def _heading(case: Case) -> str:
    return f"{case.name} on {case.size}\n"


# --- several values, several seeds --------------------------------------------------------------


def _simulate_several(
    case: Case, sweep: Sweep, seeds: Sequence[int], arguments: argparse.Namespace
) -> int:
    records = arguments.html is not None and not arguments.sweep
    with Runner(arguments, len(sweep.points) * len(seeds)) as runner:
        runner.prepare(case, sweep, seeds, records=records)
        column = runner.column(case, sweep, seeds, records=records)
    _print_several(arguments, column, sweep)
    if arguments.html is not None and arguments.sweep:
        pages.write_sweep(arguments, column, sweep)
    elif arguments.html is not None:
        pages.write_comparison(arguments, [column], sweep)
    return conclude({case.name: column.all_results})


def _print_several(arguments: argparse.Namespace, column: Column, sweep: Sweep) -> None:
    """A column for each value; of a rate, up to which one the goals are met."""
    from mserve.runtime.simulator.comparison import comparison_json, comparison_table
    from mserve.runtime.simulator.sweeps import taken_json, taken_text

    goals, case = goals_of(arguments), column.case
    runs = {
        point.name or case.name: summaries(results, goals)
        for point, results in zip(sweep.points, column.results, strict=True)
    }
    over = swept_runs([column], sweep, goals)
    doubtful = warnings({case.name: column.all_results})
    if arguments.format == "json":
        rates = {"highest_rate": taken_json(over)} if sweep.is_of_rate else {}
        found = {"cluster": case.size.json(), **comparison_json(runs, goals), **rates}
        print(json.dumps({**found, "warnings": doubtful}, indent=2))
        return
    print("\n".join([_heading(case), comparison_table(runs, goals), *doubtful]))
    if sweep.is_of_rate:
        print(f"\n{taken_text(over)}")
