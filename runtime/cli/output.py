"""What commands that measure requests have in common beyond their figures: goals, files, progress.

Knows no figure: runtime/traffic/ and runtime/simulator/ have them.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mserve.runtime.traffic.outcomes import Goals


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slo",
        metavar="GOALS",
        help="count requests that meet these goals as goodput: ttft=500ms,tpot=50ms,jct=10s, any of"
        " them (time to first token, per output token, until the end)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="form of what is printed (default: %(default)s)",
    )
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a page with charts")


def goals_of(arguments: argparse.Namespace) -> "Goals | None":
    """Raises ConfigError."""
    from mserve.runtime.traffic.objectives import goals

    return None if arguments.slo is None else goals(arguments.slo)


def seeds_of(arguments: argparse.Namespace) -> range:
    """As many as --seeds says, from --seed on where a command has it. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    if arguments.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, not {arguments.seeds}.")
    first: int = getattr(arguments, "seed", 0)
    return range(first, first + arguments.seeds)


def check_writable(path: Path) -> None:
    """Before the work whose result goes there. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"{path} cannot be written: name a file in a folder that is there.")


def write_text(path: Path, text: str) -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None


class StatusLine:
    """A line on standard error that shows how far it is, and is gone at the end; on a terminal only."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.show("")

    def show(self, text: str) -> None:
        if self.is_shown:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
