"""`mserve key new NAME`: an API key, shown once, and the line that lets it in."""

import argparse
import sys

from mserve.runtime.cli.strategies import Commands


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser("key", help="make an API key for --api-keys")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("new", help="the line for the file on stdout, the key on stderr")
    new.add_argument("name", metavar="NAME", help="of the key, and of its tenant")
    new.add_argument(
        "--tenant", metavar="NAME", help="whose cache and limit it shares (default: NAME)"
    )
    new.add_argument(
        "--max-requests",
        type=int,
        metavar="N",
        help="most of the tenant that are under way at once (default: no limit of its own)",
    )
    new.set_defaults(run=_new)


def _new(arguments: argparse.Namespace) -> int:
    """The key goes to stderr, so that `mserve key new NAME >> FILE` writes only its hash."""
    from mserve.runtime.router.keys import new_key, parse_keys

    key, line = new_key(arguments.name)
    if arguments.tenant is not None:
        line += f" tenant={arguments.tenant}"
    if arguments.max_requests is not None:
        line += f" max_requests={arguments.max_requests}"
    parse_keys(line, "the new key")
    print(line)
    print(f"the key, shown this once: {key}", file=sys.stderr)
    return 0
