"""`mserve bench URL --trace SPEC`: the same traffic against any OpenAI-compatible server.

Reads the command line, runs the load client with a progress bar, prints what came of it. Ctrl-C prints
what there is by then. Knows no measure: runtime/traffic/ has them.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mserve.runtime.cli.strategies import Commands

if TYPE_CHECKING:
    from mserve.runtime.traffic.load import LoadOptions, LoadTest
    from mserve.runtime.traffic.outcomes import Goals, Outcome
    from mserve.runtime.traffic.prompts import Vocabulary
    from mserve.runtime.traffic.replay import Progress

API_KEY = "OPENAI_API_KEY"
DEFAULT_TRACE = "poisson:rate=2,input=512,output=64,num=100"
THIS_RUN = "this run"
_BAR_WIDTH = 24


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench", help="send traffic to any OpenAI-compatible server and measure its answers"
    )
    parser.add_argument("url", metavar="URL", help="of the server, http://HOST:PORT")
    parser.add_argument("--model", metavar="NAME", help="where the server has several")
    _add_traffic(parser)
    _add_prompts(parser)
    parser.add_argument(
        "--slo", metavar="GOALS", help="what goodput counts, as ttft=500ms,tpot=50ms,jct=10s"
    )
    parser.add_argument(
        "--timeout", default="10min", metavar="TIME", help="of a request (default: %(default)s)"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a report with charts")
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


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("traffic")
    group.add_argument(
        "--trace",
        default=DEFAULT_TRACE,
        metavar="SPEC",
        help="a file, or a generator with its settings (default: %(default)s)",
    )
    group.add_argument("--rate", type=float, metavar="R", help="requests per second on average")
    group.add_argument("--speed", type=float, metavar="S", help="2 makes times half as long")
    group.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="keep N requests under way instead of sending each at its time",
    )
    group.add_argument("--limit", type=int, metavar="N", help="of all, the first N requests")
    group.add_argument("--duration", metavar="TIME", help="of those, the ones before TIME")
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of arrivals and prompts (default: prompts new each time, so that none is cached)",
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts and answers")
    group.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="multiplies all lengths"
    )
    group.add_argument(
        "--vocab", metavar="LOW..HIGH", help="token ids of prompts (default: found out)"
    )
    group.add_argument(
        "--no-ignore-eos", action="store_true", help="let answers end where the model ends them"
    )


# --- the command line ---------------------------------------------------------------------------


def _options(arguments: argparse.Namespace) -> "LoadOptions":
    """Raises ConfigError."""
    from mserve.runtime.traffic.load import LoadOptions
    from mserve.runtime.traffic.model import Wanted
    from mserve.runtime.traffic.objectives import seconds

    _check(arguments)
    vocabulary = _vocabulary(arguments.vocab) if arguments.vocab else None
    seed: int | None = arguments.seed
    return LoadOptions(
        url=arguments.url,
        trace=arguments.trace,
        prompt_seed=secrets.randbits(64) if seed is None else seed,
        seed=seed or 0,
        rate=arguments.rate,
        speed=arguments.speed or 1.0,
        limit=arguments.limit,
        duration_s=seconds(arguments.duration, "--duration") if arguments.duration else None,
        concurrency=arguments.concurrency,
        scale=arguments.scale,
        timeout_s=seconds(arguments.timeout, "--timeout"),
        wanted=Wanted(arguments.model, vocabulary, not arguments.no_ignore_eos),
        api_key=os.environ.get(API_KEY, ""),
    )


def _check(arguments: argparse.Namespace) -> None:
    from mserve.runtime.errors import ConfigError

    for flag in ("rate", "speed", "concurrency", "limit", "scale"):
        value = getattr(arguments, flag)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{flag} must be above 0, not {value}.")
    times = [f"--{flag}" for flag in ("rate", "speed") if getattr(arguments, flag) is not None]
    if len(times) > 1:
        raise ConfigError("--rate and --speed both set when requests arrive: give one of them.")
    if arguments.concurrency is not None and times:
        raise ConfigError(
            f"With --concurrency requests go out when others end, so {times[0]} has no meaning:"
            " leave one of them out."
        )
    for path in (arguments.html, arguments.json):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ConfigError(f"{path} cannot be written: name a file in a folder that is there.")


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
    from mserve.runtime.traffic.objectives import goals

    test = LoadTest(_options(arguments))
    wanted = goals(arguments.slo) if arguments.slo else None
    earlier = _earlier(arguments.against)
    _raise_file_limit()
    is_interrupted = _run(test)
    _report(arguments, test, list(test.notes(is_interrupted=is_interrupted)), earlier, wanted)
    if is_interrupted:
        return 130
    return 1 if test.progress and test.progress.num_failed else 0


def _run(test: "LoadTest") -> bool:
    """Whether it was interrupted. Raises KeyboardInterrupt where nothing had begun."""
    with _Bar() as bar:
        try:
            asyncio.run(_load(test, bar))
        except KeyboardInterrupt:
            if test.progress is None:
                raise
            return True
    return False


async def _load(test: "LoadTest", bar: "_Bar") -> None:
    from mserve.runtime.clock import LoopClock

    await test.run(LoopClock(), bar.draw)


def _raise_file_limit() -> None:
    """Every request under way has a connection; shells often allow 1,024 files."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Bar:
    """A line on standard error that shows how far it is; on a terminal only."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def draw(self, progress: "Progress") -> None:
        if not self._is_shown:
            return
        ended, total = len(progress.outcomes), progress.num_arrivals
        done = "#" * (ended * _BAR_WIDTH // total)
        failed = f", {progress.num_failed} failed" if progress.num_failed else ""
        text = f"[{done:{_BAR_WIDTH}}] {ended}/{total}, {progress.num_running} running{failed}"
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


# --- what came of it ----------------------------------------------------------------------------


def _report(
    arguments: argparse.Namespace,
    test: "LoadTest",
    notes: Sequence[str],
    earlier: "Mapping[str, Sequence[Outcome]]",
    goals: "Goals | None",
) -> None:
    from mserve.runtime.traffic.page import write_page
    from mserve.runtime.traffic.report import outcomes_json, run_json

    assert test.progress is not None, "A test that is over had begun."
    outcomes = sorted(test.progress.outcomes, key=lambda outcome: outcome.arrival_s)
    runs = {THIS_RUN: outcomes, **earlier}
    about = {"url": arguments.url, "model": test.model, "trace": arguments.trace, "notes": notes}
    figures: dict[str, Any] = {**about, **run_json(outcomes, goals)}
    print(json.dumps(figures, indent=2) if arguments.format == "json" else _tables(runs, goals))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json is not None:
        _write(arguments.json, json.dumps({**figures, "outcomes": outcomes_json(outcomes)}) + "\n")
    if arguments.html is not None:
        title = f"{test.model} at {arguments.url}, {arguments.trace}"
        _write(arguments.html, write_page(title, runs, goals, notes))


def _tables(runs: "Mapping[str, Sequence[Outcome]]", goals: "Goals | None") -> str:
    """This run; and if there are others, all of them beside each other."""
    from mserve.runtime.traffic.report import compare_table, run_table

    table = run_table(runs[THIS_RUN], goals)
    return f"{table}\n\n{compare_table(runs, goals)}" if len(runs) > 1 else table


def _earlier(paths: Sequence[Path]) -> "dict[str, list[Outcome]]":
    """What --json files hold, by their names. Raises ConfigError."""
    import msgspec

    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.outcomes import Outcome

    class Saved(msgspec.Struct):
        outcomes: list[Outcome]

    found = {}
    for path in paths:
        try:
            found[path.stem] = msgspec.json.decode(path.read_bytes(), type=Saved).outcomes
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"--against {path} is no run that --json wrote: {error}.") from None
    return found


def _write(path: Path, text: str) -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
