"""The commands that help writing a strategy: fmt, explain, and the fixes of `mserve check --fix`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli.strategies import Commands

if TYPE_CHECKING:
    from mserve.dsl.check import Checked
    from mserve.dsl.fix import Applied

STDIN = "-"


def add_commands(commands: Commands) -> None:
    _add_fmt(commands)
    _add_explain(commands)


def _add_fmt(commands: Commands) -> None:
    parser = commands.add_parser("fmt", help="bring strategy files into their canonical form")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="to rewrite in place; `-` formats stdin to stdout"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only say which files would change; exit with 1 if any would",
    )
    parser.add_argument(
        "--diff",
        action="store_true",
        help="only show what would change; exit with 1 if anything would",
    )
    parser.set_defaults(run=_fmt)


def _add_explain(commands: Commands) -> None:
    parser = commands.add_parser("explain", help="show what a rule of `mserve check` means")
    parser.add_argument(
        "rule",
        nargs="?",
        metavar="RULE",
        help="as `mserve check` prints it; without one, all are listed",
    )
    parser.set_defaults(run=_explain)


def _fmt(arguments: argparse.Namespace) -> int:
    """1 if a file has mistakes of form, or would change and may not."""
    outcomes = [_format(name, arguments) for name in arguments.files]
    return max(outcomes)


def _format(name: str, arguments: argparse.Namespace) -> int:
    from mserve.dsl.format import format_source
    from mserve.dsl.render import render
    from mserve.dsl.source import Source

    data = _read(name)
    source = Source.from_bytes(data, "<stdin>" if name == STDIN else name)
    formatted = format_source(source)
    if formatted.text is None:
        print(render(source, formatted.diagnostics), end="", file=sys.stderr)
        return 1
    changed = formatted.text.encode() != data
    only_look = arguments.check or arguments.diff
    if arguments.diff:
        print(_difference(source.path, source.text, formatted.text), end="")
    elif changed and arguments.check:
        print(f"would reformat {source.path}")
    elif name == STDIN and not only_look:
        print(formatted.text, end="")
    elif changed:
        Path(name).write_text(formatted.text, "utf-8", newline="\n")
        print(f"reformatted {name}")
    return 1 if changed and only_look else 0


def _difference(path: str, before: str, after: str) -> str:
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(True), after.splitlines(True), path, f"{path} (fmt)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _read(name: str) -> bytes:
    from mserve.runtime.errors import ConfigError

    try:
        return sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.") from None


def _explain(arguments: argparse.Namespace) -> int:
    from mserve.dsl.rules import RULES, page_of
    from mserve.dsl.rules.document import headline_of
    from mserve.runtime.errors import ConfigError

    if arguments.rule is None:
        width = max(map(len, RULES))
        for rule in sorted(RULES):
            print(f"{rule:<{width}}  {headline_of(rule)}")
        return 0
    if arguments.rule not in RULES:
        raise ConfigError(_no_rule(arguments.rule, sorted(RULES)))
    print(f"{arguments.rule}: {page_of(arguments.rule)}")
    return 0


def _no_rule(name: str, known: Sequence[str]) -> str:
    from mserve.dsl.suggestion import nearest

    meant = nearest(name, known) or next((rule for rule in known if name in rule), None)
    hint = f"Did you mean '{meant}'?" if meant else "`mserve explain` lists all."
    return f"There is no rule '{name}'. {hint}"


# --- check --fix -----------------------------------------------------------------------------


def fixed(name: str) -> "Checked":
    """The file with all safe fixes applied and written; says on stderr what they were."""
    from mserve.dsl.fix import fix_source
    from mserve.dsl.source import Source

    data = _read(name)
    source = Source.from_bytes(data, name)
    result = fix_source(source)
    if result.applied:
        mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
        Path(name).write_bytes(mark + result.checked.source.text.encode())
        for each in result.applied:
            print(_said(each), file=sys.stderr)
    return result.checked


def _said(applied: "Applied") -> str:
    source, diagnostic = applied.source, applied.diagnostic
    position = source.position(diagnostic.span.start)
    changes = ", ".join(f"`{source.slice(edit.span)}` -> `{edit.text}`" for edit in diagnostic.fix)
    place = f"{source.path}:{position.line}:{position.column}"
    return f"{place}: fixed[{diagnostic.rule}] {' '.join(changes.split())}"
