"""The command `mserve verify`: every execution of a strategy's plans, with faults, explored."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from mserve.runtime.cli.strategies import Commands, compiled

if TYPE_CHECKING:
    from mserve.compiler.verifier import Counterexample, Proof, RouteProof


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="prove that no crash, delay or repeat breaks a strategy's plans",
        description="Explores every execution of every plan that the routes of a strategy can "
        "lead to, with faults, in a model of router, workers and network.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, or the name of a shipped strategy"
    )
    parser.add_argument("--faults", type=int, choices=(0, 1, 2), help="faults in one run (1)")
    parser.add_argument("--states", type=int, metavar="N", help="states to visit per route")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from mserve.compiler.verifier import Proof, prove
    from mserve.compiler.verifier.proof import BUDGET, FAULTS

    faults = FAULTS if arguments.faults is None else arguments.faults
    budget = BUDGET if arguments.states is None else arguments.states
    found: list[Proof | Counterexample] = []
    for name in arguments.files:
        strategy = compiled(name)
        if strategy is None:
            return 1
        found.append(prove(strategy, faults, budget))
        if arguments.format == "text":
            print(_text(found[-1]), flush=True)
    if arguments.format == "json":
        print(_json(found))
    return 0 if all(isinstance(each, Proof) and each.is_complete for each in found) else 1


def _text(found: "Proof | Counterexample") -> str:
    from mserve.compiler.verifier import Proof

    if isinstance(found, Proof):
        faults = "one fault" if found.faults == 1 else f"{found.faults or 'no'} faults"
        lines = [f"{found.strategy}, at most {faults} in a run"]
        return "\n".join([*lines, *(f"  {_route_text(route)}" for route in found.routes)])
    lines = [f"{found.strategy}: route {found.route} breaks a rule: {found.broken}"]
    lines += [f"  {number}. {line}" for number, line in enumerate(found.story, 1)]
    return "\n".join(lines)


def _route_text(route: "RouteProof") -> str:
    counts = f"route {route.route}, {route.num_shapes} shapes, {route.num_states:,} states"
    if route.num_open:
        return f"not proved: too large: {counts}; {route.num_open} shapes are left open"
    return f"proved: {counts}"


def _json(found: "list[Proof | Counterexample]") -> str:
    import json

    from mserve.compiler.verifier import Proof

    return json.dumps(
        [
            {"proved": isinstance(each, Proof) and each.is_complete, **asdict(each)}
            for each in found
        ],
        indent=2,
    )
