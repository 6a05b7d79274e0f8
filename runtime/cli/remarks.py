"""What is to be said of simulations beside their figures: faults that never came, what to doubt, who named
the price, what seeds change, and that nothing finished.

Reads the command line and results; knows no figure.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mserve.runtime.cli.traffic import traffic_options

if TYPE_CHECKING:
    from mserve.runtime.simulator.results import Result

SHIPPED_PRICES = "hardware.toml"
GPU_PRICE = "--gpu-price"


def add_price(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        GPU_PRICE,
        type=_usd,
        metavar="USD",
        help=f"of one GPU for an hour (default: what {SHIPPED_PRICES} says, or --hardware)",
    )


def _usd(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = 0.0
    if not 0 < price < float("inf"):
        raise argparse.ArgumentTypeError(f"takes dollars above 0, as 2.5, not {text!r}")
    return price


def remarked(result: "Result", arguments: argparse.Namespace) -> "Result":
    """With what the command line makes of it. Raises ConfigError."""
    priced = replace(result, price_source=str(arguments.hardware or SHIPPED_PRICES))
    if arguments.gpu_price is not None:
        usd_per_s = arguments.gpu_price / 3600
        workers = [replace(use, usd_per_s=usd_per_s * use.gpus) for use in result.workers]
        priced = replace(result, price_source=GPU_PRICE, workers=workers)
    return replace(
        priced,
        never_came=list(_never_came(result, arguments)),
        doubts=list(_doubts(arguments)),
    )


def _never_came(result: "Result", arguments: argparse.Namespace) -> Iterator[str]:
    from mserve.runtime.simulator.faults import RandomFaults, fault
    from mserve.runtime.simulator.outages import never_came

    end_s = max((outcome.ended_s for outcome in result.outcomes), default=0.0)
    for given in map(fault, arguments.fault):
        if not isinstance(given, RandomFaults):
            yield from filter(None, [never_came(given, result.faults, end_s)])


def _doubts(arguments: argparse.Namespace) -> Iterator[str]:
    from mserve.runtime.simulator.profile import read_profile

    if arguments.profile is not None:
        yield from filter(None, [read_profile(arguments.profile).doubt])


# --- said when all is over ----------------------------------------------------------------------


def warnings(runs: "Mapping[str, Sequence[Result]]") -> list[str]:
    """Sentences, with the names of the runs that each is about where there are several."""
    named: dict[str, dict[str, None]] = {}
    for name, results in runs.items():
        for each in results:
            for words in (*each.never_came, *each.doubts):
                named.setdefault(words, {})[name] = None
    if len(runs) == 1:
        return [f"{words}." for words in named]
    return [f"{', '.join(names)}: {words}." for words, names in named.items()]


def conclude(runs: "Mapping[str, Sequence[Result]]") -> int:
    """Warns on standard error; the exit code is 1 where nothing finished."""
    for words in warnings(runs):
        print(f"mserve: warning: {words}", file=sys.stderr)
    idle = [name for name, results in runs.items() if not any(map(_num_finished, results))]
    for name in idle:
        reasons = _reasons(each for result in runs[name] for each in result.failures.values())
        print(f"mserve: error: {name}: no request finished{reasons}", file=sys.stderr)
    return 1 if idle else 0


def _num_finished(result: "Result") -> int:
    return sum(not outcome.error for outcome in result.outcomes)


def _reasons(failures: Iterable[str]) -> str:
    first = next(iter(failures), "")
    return f"; the first said: {first}" if first else "."


# --- seeds --------------------------------------------------------------------------------------


def check_chance(arguments: argparse.Namespace, num_seeds: int) -> None:
    """That seeds change something: the traffic, or random faults. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.simulator.faults import RandomFaults, fault
    from mserve.runtime.traffic.chance import has_chance

    if num_seeds < 2 or any(isinstance(fault(text), RandomFaults) for text in arguments.fault):
        return
    if not has_chance(traffic_options(arguments)):
        raise ConfigError(
            "This trace has no chance in it: every seed is the same run. Leave --seeds out, or take"
            " parts of the trace with --limit or --duration."
        )


def seeds_in_words(arguments: argparse.Namespace, seeds: str) -> str:
    """For a page's settings. Raises ConfigError."""
    from mserve.runtime.traffic.chance import what_seeds_change

    changed = what_seeds_change(arguments.trace)
    return f"{seeds}; {changed}" if changed else seeds
