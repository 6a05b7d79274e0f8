"""`mserve bench URL --trace SPEC`: the same traffic against any OpenAI-compatible server.

Reads the command line, runs the load client with a progress bar, prints what came of it. Ctrl-C prints
what there is by then. Knows no measure: runtime/traffic/ has them.
"""

import argparse
import asyncio
import json
import re
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mserve.runtime.cli import pages
from mserve.runtime.cli.output import StatusLine, add_output, check_writable, goals_of, write_text
from mserve.runtime.cli.strategies import Commands
from mserve.runtime.cli.traffic import add_traffic, api_key, check_above_0, traffic_options

if TYPE_CHECKING:
    from mserve.runtime.traffic.load import LoadOptions, LoadTest
    from mserve.runtime.traffic.outcomes import Goals, Outcome
    from mserve.runtime.traffic.prompts import Vocabulary
    from mserve.runtime.traffic.replay import Progress

DEFAULT_TRACE = "poisson:rate=2,input=512,output=64,num=100"
THIS_RUN = "this run"
_BAR_WIDTH = 24


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """What a --json file has of one. `url` is of its server."""

    outcomes: "list[Outcome]"
    url: str


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench", help="send traffic to any OpenAI-compatible server and measure its answers"
    )
    parser.add_argument("url", metavar="URL", help="of the server, http://HOST:PORT")
    parser.add_argument(
        "--model", metavar="NAME", help="the one to ask, where the server has several"
    )
    _add_sending(add_traffic(parser, DEFAULT_TRACE))
    _add_prompts(parser)
    parser.add_argument(
        "--timeout",
        default="10min",
        metavar="TIME",
        help="give a request up after TIME (default: %(default)s)",
    )
    add_output(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures and every request")
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="show beside this run an earlier one, from its --json file",
    )
    parser.set_defaults(run=_bench)


def _add_sending(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="keep N requests under way instead of sending each at its time",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of arrivals and prompts (default: prompts new each time, so that none is cached; arrivals"
        " as with 0). A trace with exact times has no chance in its arrivals",
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts and answers")
    group.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="F",
        help="multiply all lengths (default: %(default)g)",
    )
    group.add_argument(
        "--vocab", metavar="LOW..HIGH", help="token ids of prompts (default: the server is asked)"
    )
    group.add_argument(
        "--no-ignore-eos", action="store_true", help="let answers end where the model ends them"
    )


# --- the command line ---------------------------------------------------------------------------


def _load_options(arguments: argparse.Namespace) -> "LoadOptions":
    """Raises ConfigError."""
    from mserve.runtime.traffic.load import LoadOptions
    from mserve.runtime.traffic.model import Wanted
    from mserve.runtime.traffic.objectives import seconds

    check_above_0(arguments, "concurrency", "scale")
    traffic = traffic_options(arguments)
    _check_concurrency(arguments)
    vocabulary = _vocabulary(arguments.vocab) if arguments.vocab else None
    seed: int | None = arguments.seed
    return LoadOptions(
        url=arguments.url,
        traffic=traffic,
        prompt_seed=secrets.randbits(64) if seed is None else seed,
        seed=seed or 0,
        concurrency=arguments.concurrency,
        scale=arguments.scale,
        timeout_s=seconds(arguments.timeout, "--timeout"),
        wanted=Wanted(arguments.model, vocabulary, not arguments.no_ignore_eos),
        api_key=api_key(),
    )


def _check_concurrency(arguments: argparse.Namespace) -> None:
    from mserve.runtime.errors import ConfigError

    times = [f"--{flag}" for flag in ("rate", "speed") if getattr(arguments, flag) is not None]
    if arguments.concurrency is not None and times:
        raise ConfigError(
            f"With --concurrency requests go out when others end, so {times[0]} has no meaning:"
            " leave one of them out."
        )


def _vocabulary(text: str) -> "Vocabulary":
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.prompts import Vocabulary

    found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--vocab takes LOW..HIGH, as 1000..32000, not {text!r}.")
    return Vocabulary(int(found[1]), int(found[2]))


# --- the run ------------------------------------------------------------------------------------


def _bench(arguments: argparse.Namespace) -> int:
    from mserve.runtime.traffic.load import LoadTest

    test = LoadTest(_load_options(arguments))
    for path in filter(None, (arguments.html, arguments.json)):
        check_writable(path)
    goals = goals_of(arguments)
    earlier = _earlier_runs(arguments.against)
    _raise_file_limit()
    is_interrupted = _send_traffic(test)
    _report(arguments, test, list(test.notes(is_interrupted=is_interrupted)), earlier, goals)
    if is_interrupted:
        return 130
    return 1 if test.progress and test.progress.num_failed else 0


def _send_traffic(test: "LoadTest") -> bool:
    """Whether it was interrupted. Raises KeyboardInterrupt where nothing had begun."""
    from mserve.runtime.clock import LoopClock

    async def load() -> None:
        await test.run(LoopClock(), lambda progress: line.show(_bar(progress)))

    with StatusLine() as line:
        try:
            asyncio.run(load())
        except KeyboardInterrupt:
            if test.progress is None:
                raise
            return True
    return False


def _raise_file_limit() -> None:
    """Every request under way has a connection; shells often allow 1,024 files."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bar(progress: "Progress") -> str:
    """How far it is, as one line."""
    ended, total = len(progress.outcomes), progress.num_arrivals
    done = "#" * (ended * _BAR_WIDTH // total)
    failed = f", {progress.num_failed} failed" if progress.num_failed else ""
    return f"[{done:{_BAR_WIDTH}}] {ended}/{total}, {progress.num_running} running{failed}"


# --- what came of it ----------------------------------------------------------------------------


def _report(
    arguments: argparse.Namespace,
    test: "LoadTest",
    notes: Sequence[str],
    earlier: Mapping[str, EarlierRun],
    goals: "Goals | None",
) -> None:
    from mserve.runtime.traffic.report import outcomes_json, run_json

    assert test.progress is not None, "A test that is over had begun."
    outcomes = sorted(test.progress.outcomes, key=lambda outcome: outcome.arrival_s)
    runs = {THIS_RUN: outcomes, **{name: each.outcomes for name, each in earlier.items()}}
    notes = [*notes, *_warmed(arguments, outcomes, earlier)]
    about = {"url": arguments.url, "model": test.model, "trace": arguments.trace, "notes": notes}
    figures: dict[str, Any] = {**about, **run_json(outcomes, goals)}
    print(json.dumps(figures, indent=2) if arguments.format == "json" else _tables(runs, goals))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json is not None:
        write_text(
            arguments.json, json.dumps({**figures, "outcomes": outcomes_json(outcomes)}) + "\n"
        )
    if arguments.html is not None:
        pages.write_measurement(arguments, test.model, runs, goals, notes)


def _warmed(
    arguments: argparse.Namespace,
    outcomes: "Sequence[Outcome]",
    earlier: Mapping[str, EarlierRun],
) -> Iterator[str]:
    """Which earlier runs of the same server left their prompts to this one."""
    from mserve.runtime.traffic.warmth import warmed_words

    for name, run in earlier.items():
        if run.url == arguments.url:
            yield from filter(None, [warmed_words(outcomes, run.outcomes, name)])


def _tables(runs: "Mapping[str, Sequence[Outcome]]", goals: "Goals | None") -> str:
    """This run; and if there are others, all of them beside each other."""
    from mserve.runtime.traffic.report import compare_table, run_table

    table = run_table(runs[THIS_RUN], goals)
    return f"{table}\n\n{compare_table(runs, goals)}" if len(runs) > 1 else table


def _earlier_runs(paths: Sequence[Path]) -> dict[str, EarlierRun]:
    """What --json files hold, each with a name of its own. Raises ConfigError."""
    import msgspec

    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.outcomes import Outcome

    class Saved(msgspec.Struct):
        outcomes: list[Outcome]
        url: str = ""

    found = {}
    for name, path in _named(paths).items():
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=Saved)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"--against {path} is no run that --json wrote: {error}.") from None
        found[name] = EarlierRun(saved.outcomes, saved.url)
    return found


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """By the file's name without its suffix; by the whole path where that would name two runs. A path
    that is given twice is one run."""
    different = dict.fromkeys(paths)
    num = Counter([THIS_RUN, *(path.stem for path in different)])
    return {path.stem if num[path.stem] == 1 else str(path): path for path in different}
