"""The command `mserve lsp`: the language server on stdin and stdout, with the compiler behind its
plans and tests. Imports what it needs when it runs."""

import argparse
import sys
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mserve.runtime.cli.strategies import Commands

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.compiler.testing import TestResult
    from mserve.dsl.check import Checked
    from mserve.dsl.diagnostics import Diagnostic
    from mserve.dsl.server.commands import PlanPage, Verdict

DESCRIPTION = """\
The language server for .mserve files, on stdin and stdout: mistakes while typing, completion,
hover, go to definition, rename, formatting, quick fixes, plans and tests.

Editors start it. Where yours asks for a command, the command is `mserve lsp`; the language is
called `mserve`, its files end with `.mserve`. docs/editors.md has the lines for common editors.
"""
HINT = """\
mserve lsp speaks the Language Server Protocol on stdin and stdout: an editor starts it, see
`mserve lsp --help`. Ctrl-C ends it.
"""


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser(
        "lsp",
        help="the language server, for editors",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stdio", action="store_true", help="the default; many editors say it")
    parser.set_defaults(run=_lsp)


def _lsp(_: argparse.Namespace) -> int:
    import contextlib
    import logging
    import signal

    from mserve import __version__
    from mserve.dsl.server.server import StrategyServer

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("pygls").setLevel(logging.CRITICAL)  # refusals and cancelled requests
    if sys.stdin.isatty():
        print(HINT, end="", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else a thread waits for a line to be typed
    stdout = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):  # nothing may come between messages
        return StrategyServer(CompilerCommands(), __version__).serve(sys.stdin.buffer, stdout)


class CompilerCommands:
    """The compiler as the server's commands see it (dsl.server.commands.Commands)."""

    def plan(self, checked: "Checked", route: str | None) -> "PlanPage":
        """Raises Refused."""
        from mserve.compiler.explain import FORMATS
        from mserve.compiler.views.subject import subject_of
        from mserve.dsl.server.commands import PlanPage, Refused

        subject = subject_of(_compiled(checked), None)
        if route is not None:
            routes = tuple(each for each in subject.strategy.routes if each.name == route)
            if not routes:
                raise Refused(f"There is no route `{route}`.")
            subject = replace(subject, strategy=replace(subject.strategy, routes=routes))
        return PlanPage(FORMATS["text"](subject), FORMATS["html"](subject))

    def test(self, checked: "Checked", title: str | None) -> "Verdict":
        """Raises Refused."""
        from mserve.compiler.reports import FileReport, render_reports
        from mserve.compiler.testing import run_tests
        from mserve.dsl.server.commands import Refused, Verdict

        strategy = _compiled(checked)
        results = [each for each in run_tests(strategy) if title in (None, each.title)]
        if not results:
            raise Refused(
                "There are no tests." if title is None else f"There is no test `{title}`."
            )
        name = unquote(PurePosixPath(checked.source.path).name)
        text = render_reports([FileReport(name, strategy, tuple(results))], "text")
        return Verdict(text, _summary(results), _failures(strategy, results))


def _compiled(checked: "Checked") -> "CompiledStrategy":
    """Raises Refused."""
    from mserve.compiler.pipeline import compile_strategy
    from mserve.compiler.scope import CompileError
    from mserve.dsl.diagnostics import Severity
    from mserve.dsl.server.commands import Refused

    errors = [each for each in checked.diagnostics if each.severity is Severity.ERROR]
    if errors:
        line = checked.source.position(errors[0].span.start).line
        raise Refused(f"The strategy has errors; the first is in line {line}: {errors[0].message}.")
    try:
        return compile_strategy(checked)
    except CompileError as error:
        raise Refused(f"The strategy cannot be compiled: {error}.") from None


def _summary(results: "list[TestResult]") -> str:
    failed = [f'"{each.title}"' for each in results if not each.passed]
    if not failed:
        tests = f"All {len(results)} tests" if len(results) > 1 else f'"{results[0].title}"'
        return f"{tests} passed."
    return f"{len(failed)} of {len(results)} tests failed: {', '.join(failed)}."


def _failures(
    strategy: "CompiledStrategy", results: "list[TestResult]"
) -> "tuple[Diagnostic, ...]":
    """Each at the title of its test."""
    from mserve.dsl.diagnostics import Diagnostic, Label
    from mserve.dsl.navigation import Navigation

    symbols = Navigation(strategy.checked.source).symbols()
    titles = {each.span.start: each.name_span for each in symbols if each.kind == "test"}
    return tuple(
        Diagnostic("failed-test", "; ".join(each.failures), (Label(titles[each.test.span.start]),))
        for each in results
        if not each.passed
    )
