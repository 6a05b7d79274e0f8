"""The `mserve` command: arguments in, exit codes out (0 fine, 1 problems found, 2 usage or set-up).

The one place that joins language, compiler and runtime. Imports what a command needs when it runs,
so that `mserve check` starts fast. Knows no work of its own.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from mserve import __version__
from mserve.runtime.cli import (
    bench,
    calibration,
    cluster,
    completion,
    editor,
    keys,
    language,
    serving,
    simulation,
    verification,
)

DESCRIPTION = """\
mserve serves language models by a strategy that you write down in a .mserve file.
"""
EPILOG = """\
start here:
  mserve check my.mserve          find every mistake in a strategy; --fix mends the simple ones
  mserve explain RULE             why something is a mistake
  mserve strategies               the strategies that ship
  mserve plan balanced            see what it does with a request
  mserve test balanced            run the tests that stand in it
  mserve serve balanced           serve the small model that ships, OpenAI-compatible

FILE is a path, or the name of a shipped strategy, as "balanced"; `mserve strategies` lists them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    from mserve.runtime.errors import MserveError

    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words, argparse.Namespace(command_line=words))
    try:
        code: int = arguments.run(arguments)
        return code
    except MserveError as error:
        print(f"mserve: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `mserve plan ... | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """Says of a misspelled command which one was meant."""

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '([^']+)' \(choose from (.+)\)", message):
            known = re.findall(r"[\w-]+", found[2])
            near = get_close_matches(found[1], known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"they are {', '.join(known)}"
            message = f"there is no command or choice `{found[1]}`; {hint}"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="mserve",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mserve {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    language.add_commands(commands)
    verification.add_commands(commands)
    simulation.add_commands(commands)
    calibration.add_commands(commands)
    serving.add_commands(commands)
    bench.add_commands(commands)
    keys.add_commands(commands)
    completion.add_commands(commands, parser)
    cluster.add_commands(commands)
    editor.add_commands(commands)
    return parser
