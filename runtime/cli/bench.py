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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mserve.runtime.cli.strategies import Commands

if TYPE_CHECKING:
    from mserve.runtime.traffic.answers import AnswerReader
    from mserve.runtime.traffic.arrivals import Arrival
    from mserve.runtime.traffic.client import Client
    from mserve.runtime.traffic.model import ServedModel, Wanted
    from mserve.runtime.traffic.outcomes import Goals
    from mserve.runtime.traffic.prompts import Fitted, Vocabulary
    from mserve.runtime.traffic.replay import Progress, Replay

API_KEY = "OPENAI_API_KEY"
DEFAULT_TRACE = "poisson:rate=2,input=512,output=64,num=100"
TICK_S = 0.2
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


@dataclass(frozen=True, slots=True)
class _Settings:
    """The checked command line. `seed` None: arrivals of seed 0, prompts that never were."""

    url: str
    trace: str
    rate: float | None
    speed: float
    concurrency: int | None
    limit: int | None
    duration_s: float | None
    seed: int | None
    scale: float
    timeout_s: float
    wanted: "Wanted"
    goals: "Goals | None"

    def arrivals(self) -> "Iterator[Arrival]":
        """Raises TrafficError."""
        from mserve.runtime.traffic.arrivals import scaled
        from mserve.runtime.traffic.spec import traffic

        return scaled(
            traffic(self.trace, seed=self.seed or 0),
            rate=self.rate,
            speed=self.speed,
            limit=self.limit,
            duration_s=self.duration_s,
        )


def _settings(arguments: argparse.Namespace) -> _Settings:
    """Raises ConfigError."""
    from mserve.runtime.traffic.model import Wanted
    from mserve.runtime.traffic.objectives import goals, seconds

    _check(arguments)
    vocabulary = _vocabulary(arguments.vocab) if arguments.vocab else None
    return _Settings(
        url=arguments.url,
        trace=arguments.trace,
        rate=arguments.rate,
        speed=arguments.speed or 1.0,
        concurrency=arguments.concurrency,
        limit=arguments.limit,
        duration_s=seconds(arguments.duration, "--duration") if arguments.duration else None,
        seed=arguments.seed,
        scale=arguments.scale,
        timeout_s=seconds(arguments.timeout, "--timeout"),
        wanted=Wanted(arguments.model, vocabulary, not arguments.no_ignore_eos),
        goals=goals(arguments.slo) if arguments.slo else None,
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


@dataclass(frozen=True, slots=True)
class _Requests:
    """Implements `Requests` of the replay."""

    client: "Client"
    model: "ServedModel"
    seed: int

    def body(self, arrival: "Arrival") -> bytes:
        return self.model.request(arrival, self.seed)

    async def send(self, body: bytes, reader: "AnswerReader") -> None:
        from mserve.runtime.traffic.model import COMPLETIONS_PATH

        await self.client.post(COMPLETIONS_PATH, body, reader)


@dataclass(slots=True)
class _Run:
    """What is known of the run; `replay` is None until the server has been found."""

    replay: "Replay | None" = None
    model: str = ""
    num_clipped: int = 0
    is_interrupted: bool = False


def _bench(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    _raise_file_limit()
    run = _Run()
    try:
        asyncio.run(_load(settings, run))
    except KeyboardInterrupt:
        if run.replay is None:
            raise
        run.is_interrupted = True
    assert run.replay is not None, "A run that ended had begun."
    _report(arguments, settings, run, run.replay.progress)
    if run.is_interrupted:
        return 130
    return 1 if run.replay.progress.num_failed else 0


def _raise_file_limit() -> None:
    """Every request under way has a connection; shells often allow 1,024 files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))


async def _load(settings: _Settings, run: _Run) -> None:
    """Raises ConfigError, with nothing sent, where server and traffic do not go together."""
    from mserve.runtime.clock import LoopClock
    from mserve.runtime.traffic.client import Client, Server
    from mserve.runtime.traffic.model import find_model
    from mserve.runtime.traffic.replay import Replay

    clock = LoopClock()
    client = Client(Server.at(settings.url), clock.now, os.environ.get(API_KEY, ""))
    try:
        model = await find_model(client, settings.url, settings.wanted)
        traffic = _fitted(settings, model)
        seed = secrets.randbits(64) if settings.seed is None else settings.seed
        requests = _Requests(client, model, seed)
        run.model, run.num_clipped = model.name, traffic.num_clipped
        run.replay = Replay(requests, clock, traffic.arrivals, settings.timeout_s)
        with _Bar(run.replay.progress) as bar:
            timer = clock.every(TICK_S, bar.draw)
            try:
                await _play(run.replay, settings.concurrency)
            finally:
                timer.cancel()
    finally:
        client.close()


async def _play(replay: "Replay", concurrency: int | None) -> None:
    if concurrency is None:
        await replay.open_loop()
    else:
        await replay.closed_loop(concurrency)


def _fitted(settings: _Settings, model: "ServedModel") -> "Fitted":
    from mserve.runtime.errors import ConfigError
    from mserve.runtime.traffic.prompts import fitted

    traffic = fitted(settings.arrivals(), settings.scale, model.context)
    if not traffic.arrivals:
        raise ConfigError("No request arrives within --duration: make it longer.")
    return traffic


class _Bar:
    """A line on standard error that shows how far it is; on a terminal only."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._is_shown = sys.stderr.isatty()

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def draw(self) -> None:
        if not self._is_shown:
            return
        progress = self._progress
        ended, total = len(progress.outcomes), progress.num_arrivals
        done = "#" * (ended * _BAR_WIDTH // total)
        failed = f", {progress.num_failed} failed" if progress.num_failed else ""
        text = f"[{done:{_BAR_WIDTH}}] {ended}/{total}, {progress.num_running} running{failed}"
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


# --- what came of it ----------------------------------------------------------------------------


def _report(
    arguments: argparse.Namespace, settings: _Settings, run: _Run, progress: "Progress"
) -> None:
    from mserve.runtime.traffic.page import write_page
    from mserve.runtime.traffic.report import outcomes_json, run_json, run_table

    notes = list(_notes(settings, run, progress))
    outcomes = sorted(progress.outcomes, key=lambda outcome: outcome.arrival_s)
    about = {"url": settings.url, "model": run.model, "trace": settings.trace, "notes": notes}
    figures: dict[str, Any] = {**about, **run_json(outcomes, settings.goals)}
    if arguments.format == "json":
        print(json.dumps(figures, indent=2))
    else:
        print(run_table(outcomes, settings.goals))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json is not None:
        whole = {**figures, "outcomes": outcomes_json(outcomes)}
        _write(arguments.json, json.dumps(whole) + "\n")
    if arguments.html is not None:
        title = f"{run.model} at {settings.url}, {settings.trace}"
        _write(arguments.html, write_page(title, {run.model: outcomes}, settings.goals, notes))


def _write(path: Path, text: str) -> None:
    """Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None


def _notes(settings: _Settings, run: _Run, progress: "Progress") -> Iterator[str]:
    """What one must know to believe the figures, in sentences."""
    from mserve.runtime.traffic.replay import LATE_S

    if run.is_interrupted:
        unsent = progress.num_arrivals - progress.num_sent
        yield (
            f"Interrupted: {progress.num_running} requests were under way and {unsent} were not"
            " sent; figures are of those that had ended."
        )
    if progress.num_late:
        yield (
            f"This client was too slow: {progress.num_late} requests went out more than"
            f" {LATE_S * 1e3:.0f} ms late (up to {progress.max_lag_s * 1e3:,.0f} ms, which their"
            " times include)."
        )
    if run.num_clipped:
        yield f"{run.num_clipped} requests were longer than the model's context and were cut to it."
    if progress.num_short:
        yield f"{progress.num_short} answers ended before the length that the traffic gives them."
    for kind, words in progress.examples.items():
        yield f"{kind}: {words}"
