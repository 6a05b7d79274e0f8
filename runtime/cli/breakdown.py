"""Why a simulation could not come to its end, in words for whoever ran it. Knows no cluster."""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mserve.runtime.simulator.loop import SimulationError

Command = Callable[[argparse.Namespace], int]
_ADVICE = (
    "This is a mistake in mserve, not in the strategy or the traffic; please report it. The same command"
    " shows it again."
)


def in_words(command: Command) -> Command:
    """The command, which says on standard error what ended its simulations before their time: 1 for a
    mistake, 130 for Ctrl-C."""

    def run(arguments: argparse.Namespace) -> int:
        from mserve.runtime.simulator.loop import SimulationError

        try:
            return command(arguments)
        except SimulationError as error:
            print(f"mserve: error: {explained(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt as interrupt:
            progress = f": {interrupt}" if interrupt.args else ""
            print(f"mserve: interrupted{progress}", file=sys.stderr)
            return 130

    return run


def explained(error: "SimulationError") -> str:
    """Several lines, without a trailing line break."""
    from mserve.runtime.simulator.loop import Crash, Deadlock, Livelock

    heads = {
        Deadlock: "The simulation cannot go on: whoever is left waits for somebody else.",
        Livelock: "The simulation does not get on: it is busy, and time stands still.",
        Crash: "The simulation broke down.",
    }
    head = heads.get(type(error), "The simulation did not come out even.")
    told = str(error) if error.__cause__ is None else _told(error.__cause__)
    return f"{head}\n{told}\n{_ADVICE}"


def _told(cause: BaseException) -> str:
    """What failed, and where; of several failures at once, the first."""
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    said = "".join(traceback.format_exception_only(cause)).strip()
    frames = traceback.extract_tb(cause.__traceback__)
    where = f"\n  in {frames[-1].name}, {Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return said + where if frames else said
