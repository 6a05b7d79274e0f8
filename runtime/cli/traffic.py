"""Traffic by its arguments, as `mserve bench`, `mserve simulate` and `mserve compare` take it; and whose
it is, where a server asks.

Knows no generator and no trace format: runtime/traffic/spec.py has them.
"""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mserve.runtime.traffic.spec import TrafficOptions

API_KEY_VARIABLE = "OPENAI_API_KEY"


def api_key() -> str:
    """For the server that is asked; as other clients find it."""
    return os.environ.get(API_KEY_VARIABLE, "")


def add_traffic(
    parser: argparse.ArgumentParser, default: str | None = None
) -> "argparse._ArgumentGroup":
    """Returns the group, for what a command has beyond it. Without `default` a trace must be given."""
    group = parser.add_argument_group("traffic")
    example = "default: %(default)s" if default else "as poisson:rate=5,input=3000,output=100"
    group.add_argument(
        "--trace",
        default=default,
        required=default is None,
        metavar="SPEC",
        help=f"a file, or a generator with its settings ({example}; docs/benchmarking.md)",
    )
    group.add_argument(
        "--rate", type=float, metavar="R", help="change times to R requests per second on average"
    )
    group.add_argument(
        "--speed", type=float, metavar="S", help="S times as fast: 2 halves all times"
    )
    group.add_argument("--limit", type=int, metavar="N", help="only the first N requests")
    group.add_argument(
        "--duration", metavar="TIME", help="only requests before TIME, as 60s or 5min"
    )
    return group


def traffic_options(arguments: argparse.Namespace) -> "TrafficOptions":
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.objectives import seconds
    from mserve.runtime.traffic.spec import TrafficOptions

    check_above_0(arguments, "rate", "speed", "limit")
    if arguments.rate is not None and arguments.speed is not None:
        raise ConfigError("--rate and --speed both set when requests arrive: give one of them.")
    return TrafficOptions(
        trace=arguments.trace,
        rate=arguments.rate,
        speed=arguments.speed or 1.0,
        limit=arguments.limit,
        duration_s=seconds(arguments.duration, "--duration") if arguments.duration else None,
    )


def check_numbers(arguments: argparse.Namespace, numbers: Sequence[int]) -> None:
    """Of requests in the traffic, as far as it is known how many there will be. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    most = traffic_options(arguments).most_requests
    for number in numbers:
        if most is not None and number >= most:
            has = f"{most:,}, numbered 0 to {most - 1}" if most > 1 else "one, number 0"
            raise ConfigError(f"There is no request {number}: this traffic has {has}.")


def check_above_0(arguments: argparse.Namespace, *flags: str) -> None:
    """Those that are given. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    for flag in flags:
        value = getattr(arguments, flag)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{flag} must be above 0, not {value}.")
