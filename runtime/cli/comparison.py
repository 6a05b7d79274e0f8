"""The command `mserve compare`: several strategies under the same traffic, on as many GPUs each.

Decides which simulations there are, of which splits of the workers, and prints what came of them.
Knows no cost and no measure: runtime/simulator/ and runtime/traffic/ have them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from mserve.runtime.cli import pages, scenario
from mserve.runtime.cli.breakdown import in_words
from mserve.runtime.cli.cases import Case, Column, Runner, summaries, swept_runs
from mserve.runtime.cli.jobs import add_jobs
from mserve.runtime.cli.output import add_output, check_writable, goals_of, seeds_of
from mserve.runtime.cli.remarks import check_chance, conclude, warnings
from mserve.runtime.cli.strategies import Commands, servable
from mserve.runtime.cli.sweeps import Sweep, add_sweep, has_param, set_params, swept

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.splits import Tried


def add_compare(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="several strategies under the same traffic, side by side",
        description="Simulates each strategy under the same traffic, on the same number of GPUs."
        " Stars are for who is clearly best.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, or the name of a shipped strategy"
    )
    scenario.add_traffic(parser)
    scenario.add_cluster(parser)
    parser.add_argument(
        "--splits",
        action="store_true",
        help="with --cluster N: simulate how those may be shared out over pools, at most 16 ways, and"
        " compare each strategy with its best one",
    )
    parser.add_argument(
        "--unequal", action="store_true", help="compare strategies on different numbers of GPUs"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="simulate with N seeds of traffic, from 0 on (default: %(default)s)",
    )
    add_sweep(parser)
    add_jobs(parser)
    add_output(parser)
    parser.set_defaults(run=in_words(_compare), passes_over_pools=True)


def _compare(arguments: argparse.Namespace) -> int:
    goals_of(arguments)  # wrong ones are refused before the work, not after it
    seeds = seeds_of(arguments)
    strategies: dict[str, CompiledStrategy] = {}
    for file in arguments.files:
        strategy = servable(file)
        if strategy is None:
            return 1
        strategies[file] = strategy
    _set_params(strategies, arguments.set)
    check_chance(arguments, len(seeds))
    sweep = swept(arguments, strategies)
    candidates = _candidates(strategies, arguments)
    if arguments.html is not None:
        check_writable(arguments.html)
    num_further = len(candidates) * (len(seeds) - 1)
    num_runs = (sum(map(len, candidates)) + num_further) * len(sweep.points)
    with Runner(arguments, num_runs) as runner:
        for case in chain.from_iterable(candidates):
            runner.prepare(case, sweep, seeds[:1], records=_records(arguments))
        columns = [_column(runner, cases, sweep, seeds, arguments) for cases in candidates]
    _print(arguments, columns, sweep, seeds)
    if arguments.html is not None:
        pages.write_comparison(arguments, columns, sweep, _split_lines(columns, sweep, seeds))
    return conclude({each.case.name: each.all_results for each in columns})


def _set_params(strategies: "Mapping[str, CompiledStrategy]", given: Sequence[str]) -> None:
    """Strategies that are compared need not have the same params; but one must have each. Raises
    ConfigError."""
    params = {name for each in strategies.values() for name in each.params}
    _check_known("param", [text.partition("=")[0].strip() for text in given], params)
    for strategy in strategies.values():
        set_params(strategy, [each for each in given if has_param(strategy, each)])


def _check_known(kind: str, names: Sequence[str], known: set[str]) -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    for name in names:
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"None of these strategies has a {kind} {name!r}; they have {has}.")


# --- which simulations --------------------------------------------------------------------------


def _candidates(
    strategies: "Mapping[str, CompiledStrategy]", arguments: argparse.Namespace
) -> list[list[Case]]:
    """Of each strategy the splits to choose from, or one, all on as many GPUs unless they need not be.
    Raises ConfigError."""
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.simulator.sizes import check_alike

    asked = scenario.wanted(arguments)
    pools = {pool.name for each in strategies.values() for pool in each.pools}
    _check_known("pool", list(asked.pools), pools)
    if arguments.splits and asked.num_workers is None:
        raise ConfigError("--splits shares out the workers of --cluster N: give a number, as 8.")
    found = [_cases(name, each, arguments) for name, each in strategies.items()]
    if not arguments.unequal:
        by_total = {(cases[0].name, case.size.total): case for cases in found for case in cases}
        check_alike([(case.name, case.size) for case in by_total.values()])
    return found


def _cases(name: str, strategy: "CompiledStrategy", arguments: argparse.Namespace) -> list[Case]:
    """Those of several splits are named by them."""
    from mserve.runtime.simulator.sizes import splits

    params = dict(strategy.values)
    size = scenario.cluster_size(strategy, arguments)
    if not arguments.splits or len(strategy.pools) < 2:
        return [Case(name, name, strategy, params, size)]
    sizes = [
        scenario.size_of(strategy, arguments, counts)
        for counts in splits(strategy.pools, size.num_workers)
    ]
    return [Case(f"{name} {each.split}", name, strategy, params, each) for each in sizes]


def _column(
    runner: Runner,
    cases: Sequence[Case],
    sweep: Sweep,
    seeds: Sequence[int],
    arguments: argparse.Namespace,
) -> Column:
    """Every case runs with the first seed, the best one of them with the others, too."""
    from mserve.runtime.simulator.splits import tried

    goals, records = goals_of(arguments), _records(arguments)
    best: Column | None = None
    each: list[Tried] = []
    for case in cases:
        column = runner.column(case, sweep, seeds[:1], records=records)
        firsts = [summaries(results, goals)[0] for results in column.results]
        each.append(tried(case.size, firsts))
        if best is None or each[-1].rank < min(one.rank for one in each[:-1]):
            best = column
    assert best is not None, "a strategy has a case"
    runner.prepare(best.case, sweep, seeds[1:], records=False)
    further = runner.column(best.case, sweep, seeds[1:], records=False)
    for results, more in zip(best.results, further.results, strict=True):
        results.extend(more)
    return Column(best.case, best.results, best.recorder, each)


def _records(arguments: argparse.Namespace) -> bool:
    """Whether a page will show what workers did."""
    return arguments.html is not None and not arguments.sweep


# --- what came of it ----------------------------------------------------------------------------


def _print(
    arguments: argparse.Namespace, columns: Sequence[Column], sweep: Sweep, seeds: Sequence[int]
) -> None:
    if arguments.format == "json":
        print(json.dumps(_json(arguments, columns, sweep, seeds), indent=2))
        return
    print(_table(arguments, columns, sweep))
    lines = [*_split_lines(columns, sweep, seeds), *_warnings(columns)]
    if lines:
        print("\n" + "\n".join(lines))


def _warnings(columns: Sequence[Column]) -> list[str]:
    return warnings({each.case.name: each.all_results for each in columns})


def _table(arguments: argparse.Namespace, columns: Sequence[Column], sweep: Sweep) -> str:
    from mserve.runtime.simulator.comparison import comparison_table
    from mserve.runtime.simulator.sweeps import sweep_table, taken_text

    goals = goals_of(arguments)
    sizes = [str(each.case.size) for each in columns]
    if not arguments.sweep:
        runs = {each.case.name: summaries(each.results[0], goals) for each in columns}
        return comparison_table(runs, goals, sizes)
    over = swept_runs(columns, sweep, goals)
    taken = f"\n\n{taken_text(over)}" if sweep.is_of_rate else ""
    return sweep_table(over, sizes) + taken


def _json(
    arguments: argparse.Namespace, columns: Sequence[Column], sweep: Sweep, seeds: Sequence[int]
) -> Mapping[str, object]:
    from mserve.runtime.simulator.comparison import comparison_json
    from mserve.runtime.simulator.splits import splits_json
    from mserve.runtime.simulator.sweeps import sweep_json

    goals = goals_of(arguments)
    tried = {each.case.strategy.name: each.tried for each in columns}
    found: dict[str, object] = {
        "clusters": {each.case.name: each.case.size.json() for each in columns},
        "warnings": _warnings(columns),
    }
    if arguments.splits:
        found["splits"] = splits_json(tried, seeds[0])
    if arguments.sweep:
        return {**found, **sweep_json(swept_runs(columns, sweep, goals))}
    runs = {each.case.name: summaries(each.results[0], goals) for each in columns}
    return {**found, **comparison_json(runs, goals)}


def _split_lines(columns: Sequence[Column], sweep: Sweep, seeds: Sequence[int]) -> list[str]:
    from mserve.runtime.simulator.splits import splits_lines

    tried = {each.case.strategy.name: each.tried for each in columns}
    return splits_lines(tried, seeds[0], is_swept=len(sweep.points) > 1)
