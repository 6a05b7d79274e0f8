"""The commands about strategies as text: check, plan. Each imports what it needs when it runs."""

import argparse
from pathlib import Path

from mserve.runtime.cli.strategies import TEXT_FORMATS, Commands, checked, compiled, rendered

CHECK_FORMATS = (*TEXT_FORMATS, "json", "sarif")


def add_commands(commands: Commands) -> None:
    _add_check(commands)
    _add_plan(commands)


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser("check", help="report every problem of strategy files")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--format", choices=CHECK_FORMATS, default="full")
    parser.add_argument("--warn-only", action="store_true", help="warnings alone exit with 0")
    parser.set_defaults(run=_check)


def _add_plan(commands: Commands) -> None:
    parser = commands.add_parser("plan", help="show what a strategy does with a request")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="fix an observation, as in a strategy's tests: 'tokens(prompt) = 4000'",
    )
    parser.add_argument(
        "--cluster", action="append", default=[], metavar="POOL=COUNT", help="workers of a pool"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PARAM=VALUE")
    parser.add_argument("--after", default="", metavar="PASS", help="what this pass leaves")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write to a file")
    parser.set_defaults(run=_plan)


def _check(arguments: argparse.Namespace) -> int:
    from mserve.dsl.diagnostics import Severity

    results = [checked(name) for name in arguments.files]
    print(rendered(results, arguments.format), end="")
    found = [problem for result in results for problem in result.diagnostics]
    if arguments.warn_only:
        found = [problem for problem in found if problem.severity is Severity.ERROR]
    return 1 if found else 0


def _plan(arguments: argparse.Namespace) -> int:
    from mserve.compiler.explain import PlanRequest, plan_json, plan_text
    from mserve.compiler.givens import GivenError
    from mserve.runtime.errors import ConfigError

    strategy = compiled(arguments.file)
    if strategy is None:
        return 1
    asked = PlanRequest(arguments.cluster, arguments.given, arguments.set, arguments.after)
    show = plan_json if arguments.format == "json" else plan_text
    try:
        text = show(strategy, asked).rstrip("\n") + "\n"
    except GivenError as error:
        raise ConfigError(str(error)) from None
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.write_text(text, "utf-8")
    return 0
