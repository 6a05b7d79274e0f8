"""The commands about strategies as text: check, plan, test. Each imports what it needs when it runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mserve.runtime.cli import authoring, cluster
from mserve.runtime.cli.strategies import (
    TEXT_FORMATS,
    Commands,
    checked,
    compiled,
    compiled_text,
    rendered,
    shipped_strategies,
    strategy_description,
)

if TYPE_CHECKING:
    from mserve.compiler.reports import FileReport

CHECK_FORMATS = (*TEXT_FORMATS, "json", "sarif")
PLAN_FORMATS = ("text", "json", "mermaid", "dot", "svg", "html")


def add_commands(commands: Commands) -> None:
    _add_check(commands)
    _add_strategies(commands)
    authoring.add_commands(commands)
    _add_plan(commands)
    _add_test(commands)


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser("check", help="report every problem of strategy files")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, or the name of a shipped strategy"
    )
    parser.add_argument(
        "--format",
        choices=CHECK_FORMATS,
        default="full",
        help="of what is found; github and sarif are for CI systems (default: %(default)s)",
    )
    parser.add_argument(
        "--warn-only", action="store_true", help="exit with 0 where there are warnings alone"
    )
    parser.add_argument("--fix", action="store_true", help="apply the safe fixes to the files")
    parser.add_argument(
        "--against",
        metavar="URL",
        help="also check that the cluster behind this router can serve them",
    )
    parser.set_defaults(run=_check)


def _add_strategies(commands: Commands) -> None:
    parser = commands.add_parser("strategies", help="list the strategies that ship")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="(default: %(default)s)"
    )
    parser.set_defaults(run=_strategies)


def _strategies(arguments: argparse.Namespace) -> int:
    import json

    rows = [(name, strategy_description(name)) for name in shipped_strategies()]
    if arguments.format == "json":
        print(json.dumps([{"name": name, "description": text} for name, text in rows], indent=2))
    else:
        width = max(len(name) for name, _ in rows)
        print("\n".join(f"{name:{width}}  {text}" for name, text in rows))
    return 0


def _add_plan(commands: Commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="show what a strategy does with a request",
        description="Without a situation, show the plan of every route over symbols. With one "
        "(--given, --cluster, --set), show the decision, its plan, and when its steps would run.",
    )
    parser.add_argument("file", metavar="FILE", help="a file, or the name of a shipped strategy")
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="fix an observation, as in a strategy's tests: 'tokens(prompt) = 4000'",
    )
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="POOL=COUNT",
        help="workers of a pool; pools not named keep the strategy's count",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="change a param, within its range: tail=20%%",
    )
    parser.add_argument(
        "--after",
        default="",
        metavar="PASS",
        help="show what this pass of the compiler leaves; a wrong name lists them",
    )
    parser.add_argument(
        "--format", choices=PLAN_FORMATS, default="text", help="(default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="write to a file instead of stdout"
    )
    parser.set_defaults(run=_plan)


def _add_test(commands: Commands) -> None:
    parser = commands.add_parser(
        "test",
        help="run the tests that stand in strategy files",
        description="Run the tests that stand in strategy files, without a model or workers.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, or the name of a shipped strategy"
    )
    parser.add_argument("--coverage", action="store_true", help="fail for routes no test reaches")
    parser.add_argument(
        "--format",
        choices=("text", "json", "junit"),
        default="text",
        help="junit is for CI systems (default: %(default)s)",
    )
    parser.set_defaults(run=_test)


def _check(arguments: argparse.Namespace) -> int:
    from mserve.dsl.diagnostics import Severity

    read = authoring.fixed if arguments.fix else checked
    results = [read(name) for name in arguments.files]
    print(rendered(results, arguments.format), end="")
    found = [problem for result in results for problem in result.diagnostics]
    if arguments.warn_only:
        found = [problem for problem in found if problem.severity is Severity.ERROR]
    fits = arguments.against is None or cluster.fits(results, arguments.against)
    return 0 if fits and not found else 1


def _plan(arguments: argparse.Namespace) -> int:
    from mserve.compiler.explain import PlanRequest, plan_view
    from mserve.compiler.givens import GivenError
    from mserve.runtime.errors import ConfigError

    strategy = compiled(arguments.file)
    if strategy is None:
        return 1
    asked = PlanRequest(arguments.cluster, arguments.given, arguments.set, arguments.after)
    try:
        text = plan_view(strategy, asked, arguments.format)
    except GivenError as error:
        raise ConfigError(str(error)) from None
    _write(text, arguments.output)
    return 0


def _write(text: str, path: Path | None) -> None:
    """To a file, or to stdout where none is named. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    if path is None:
        print(text, end="")
        return
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None


def _test(arguments: argparse.Namespace) -> int:
    from mserve.compiler.reports import render_reports

    reports = [_report(name, coverage=arguments.coverage) for name in arguments.files]
    print(render_reports(reports, arguments.format), end="")
    return 0 if all(report.passed for report in reports) else 1


def _report(name: str, *, coverage: bool) -> "FileReport":
    """A file with errors tells them on stderr, too, in full."""
    from mserve.compiler.reports import FileReport, report_of

    result = checked(name)
    strategy = compiled_text(name, result)
    if strategy is None:
        errors = rendered([result], "concise").splitlines()
        return FileReport(result.source.path, None, errors=tuple(errors))
    return report_of(result.source.path, strategy, coverage=coverage)
