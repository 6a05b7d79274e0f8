"""The command `mserve calibrate`: what a running cluster's work takes, as a profile to simulate with.

Reads the command line and prints what was found. Knows no measure: runtime/simulator/probing.py has them.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli.output import check_writable
from mserve.runtime.cli.strategies import Commands
from mserve.runtime.cli.traffic import api_key

if TYPE_CHECKING:
    from mserve.runtime.simulator.profile import Profile

DEFAULT_OUTPUT = "mserve-profile.json"
_ADVICE = (
    "Something else took time while it was measured: calibrate again with nothing else on the machine and"
    " no other requests, and with cores of its own for each worker, as workers that share them slow each"
    " other. Until then believe what it simulates no further than that."
)


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure a running cluster's costs, to simulate it",
        description="Sends a short load to an idle cluster and writes what steps, requests and"
        " transfers take there: `mserve simulate FILE --profile OUT` simulates such workers.",
    )
    parser.add_argument("url", metavar="URL", help="of an idle cluster's router")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_OUTPUT),
        metavar="OUT",
        help="the profile to write (default: %(default)s)",
    )
    parser.set_defaults(run=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    from mserve.runtime.simulator.profile import write_profile

    output: Path = arguments.output
    check_writable(output)
    profile = asyncio.run(_measure(arguments.url))
    write_profile(output, profile)
    print(_table(profile))
    for note in profile.notes:
        print(f"note: {note}", file=sys.stderr)
    if profile.doubt:
        print(f"mserve: warning: {profile.doubt}. {_ADVICE}", file=sys.stderr)
    print(f"{output} written: mserve simulate FILE --profile {output} ...", file=sys.stderr)
    return 0


async def _measure(url: str) -> "Profile":
    from mserve.runtime.cli.cluster import read_cluster
    from mserve.runtime.clock import LoopClock
    from mserve.runtime.simulator.probing import Probes
    from mserve.runtime.traffic.client import Client, Server
    from mserve.runtime.traffic.model import Wanted, find_model

    view = await asyncio.to_thread(read_cluster, url)
    clock = LoopClock()
    client = Client(Server.at(url), clock.now, api_key())
    try:
        model = await find_model(client, url, Wanted())
        return await Probes(client, clock, model, view).run(_show)
    finally:
        client.close()


def _show(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr)


def _table(profile: "Profile") -> str:
    steps, request, link, limits = profile.steps, profile.request, profile.link, profile.limits
    rows = (
        ("a step that computes prompts", _ms(steps.prefill_base_s)),
        ("  for each prompt token", _us(steps.prefill_token_s)),
        ("  for 1,000 tokens attended to, each", _us(steps.prefill_pair_s * 1000)),
        ("a step of answers only", _ms(steps.decode_base_s)),
        ("  for each answer", _us(steps.decode_sequence_s)),
        ("  for its context, 1,000 tokens", _us(steps.decode_context_s * 1000)),
        ("a request, beside its steps", _ms(request.base_s)),
        ("  for each prompt token", _us(request.token_s)),
        ("a transfer (as workers say)", _ms(link.base_s)),
        ("  for each token's KV", _us(link.kv_bytes_per_token / link.bytes_per_s)),
        ("KV of a worker", f"{limits.num_pages * limits.page_size:,} tokens"),
        ("off what was measured: prompts", f"{profile.prompt_error:.1%}"),
        ("off what was measured: answers", f"{profile.decode_error:.1%}"),
    )
    return "\n".join(f"{name:38}{value:>14}" for name, value in rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3f} ms"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:,.3f} us"
