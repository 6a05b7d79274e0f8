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
    parser.add_argument(
        "--faults", type=int, choices=(0, 1, 2), help="most faults in one run (default: 2)"
    )
    parser.add_argument(
        "--states", type=int, metavar="N", help="give up on a shape after N states (default: 28000)"
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="(default: %(default)s)"
    )
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    import gc
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from mserve.compiler.verifier import Proof, prove
    from mserve.compiler.verifier.proof import BUDGET, FAULTS

    gc.disable()  # states are many, small and without cycles; this process ends when it is done
    faults = FAULTS if arguments.faults is None else arguments.faults
    budget = BUDGET if arguments.states is None else arguments.states
    found: list[Proof | Counterexample] = []
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        for name in arguments.files:
            strategy = compiled(name)
            if strategy is None:
                return 1
            found.append(prove(strategy, faults, budget, run=pool.map))
            if arguments.format == "text":
                print(_text(found[-1]), flush=True)
    if arguments.format == "text" and all(isinstance(each, Proof) for each in found):
        print(
            "In no run was a page freed early, kept for ever or read before its KV was there, a token "
            "sent twice or left out, or a request left without an end (docs/verify.md)."
        )
    if arguments.format == "json":
        print(_json(found))
    return 0 if all(isinstance(each, Proof) and each.is_complete for each in found) else 1


def _text(found: "Proof | Counterexample") -> str:
    from mserve.compiler.verifier import Proof

    if isinstance(found, Proof):
        lines = [f"{found.strategy}, at most {_num_faults(found.faults)} in a run"]
        return "\n".join([*lines, *(f"  {_route_text(route)}" for route in found.routes)])
    lines = [f"{found.strategy}: route {found.route} breaks a rule: {found.broken}"]
    lines += [f"  {number}. {line}" for number, line in enumerate(found.story, 1)]
    return "\n".join(lines)


def _route_text(route: "RouteProof") -> str:
    counts = f"route {route.route}, {route.num_shapes} shape{'s' if route.num_shapes != 1 else ''}, {route.num_states:,} states"
    is_complete = not route.num_open and not route.num_alone_open
    lines = [f"proved: {counts}" if is_complete else f"not proved: too large: {counts}"]
    *fewer, full = route.num_proved
    if full != route.num_shapes:
        parts = [f"{full} with {_num_faults(len(fewer))}"] if full else []
        parts += [
            f"{count} with {_num_faults(number)}"
            for number, count in reversed(list(enumerate(fewer)))
            if count
        ]
        parts += [f"{route.num_open} not at all"] if route.num_open else []
        lines.append(f"  shapes explored as a whole: {', '.join(parts)}")
        done = route.num_alone - route.num_alone_open
        lines.append(f"  workers explored alone, with any faults: {done} of {route.num_alone}")
    return "\n  ".join(lines)


def _num_faults(number: int) -> str:
    return "one fault" if number == 1 else f"{number or 'no'} faults"


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
