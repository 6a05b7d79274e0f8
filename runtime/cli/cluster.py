"""The commands that look at a running cluster: `mserve status`, and `mserve check --against`."""

import argparse
import http.client
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mserve.runtime.cli.strategies import Commands

if TYPE_CHECKING:
    from mserve.dsl.check import Checked
    from mserve.runtime.cluster.view import ClusterView, PromptsView, WorkerView

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 5.0
ADMIN_TOKEN = "MSERVE_ADMIN_TOKEN"
"""A router with API keys shows its cluster only to who knows this."""


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser("status", help="show a running cluster: workers, load, cache")
    parser.add_argument(
        "url",
        nargs="?",
        default=DEFAULT_URL,
        metavar="URL",
        help="of a router (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--watch", action="store_true", help="show it again every second, until Ctrl-C"
    )
    parser.set_defaults(run=_status)
    parser = commands.add_parser("why", help="show how one request was decided and carried out")
    parser.add_argument(
        "id",
        metavar="ID",
        help="what the answer's header x-mserve-plan or x-request-id says; of a simulated request its"
        " number in the traffic, from 0",
    )
    parser.add_argument(
        "url",
        nargs="?",
        default=DEFAULT_URL,
        metavar="URL|FILE",
        help="of its router (default: %(default)s), or the file that `mserve simulate --plans` wrote",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="(default: %(default)s)"
    )
    parser.set_defaults(run=_why)
    parser = commands.add_parser(
        "drain", help="have a worker finish what it has, leave the cluster, and end"
    )
    parser.add_argument("worker", metavar="WORKER", help="its name, as mserve status shows it")
    parser.add_argument(
        "url",
        nargs="?",
        default=DEFAULT_URL,
        metavar="URL",
        help="of a router (default: %(default)s)",
    )
    parser.set_defaults(run=_drain)


def fits(results: "Sequence[Checked]", url: str) -> bool:
    """Whether every strategy without errors can be served by the cluster behind a router's URL;
    says on stderr what is in the way. Raises ConfigError if the cluster cannot be read."""
    from mserve.compiler.pipeline import compile_strategy
    from mserve.runtime.cluster.compatibility import mismatches

    workers = read_cluster(url).workers
    for result in results:
        if result.strategy is None:
            return True  # it has errors, which are said already
    problems = [
        (result.source.path, sentence)
        for result in results
        if result.strategy is not None
        for sentence in mismatches(compile_strategy(result).pools, workers)
    ]
    for path, sentence in problems:
        print(f"{path}: against {url}: {sentence}", file=sys.stderr)
    if not problems:
        files = ", ".join(result.source.path for result in results)
        count = f"{len(workers)} worker{'s' if len(workers) != 1 else ''}"
        print(f"{files}: can be served by the {count} of {url}", file=sys.stderr)
    return not problems


def read_cluster(url: str) -> "ClusterView":
    """Raises ConfigError with what to do."""
    from msgspec import DecodeError

    from mserve.runtime.cluster.view import decode_view
    from mserve.runtime.errors import ConfigError

    try:
        return decode_view(_read(url, "/v1/cluster"))
    except (DecodeError, ValueError):
        raise ConfigError(f"{url} is not the URL of a router of mserve.") from None


def _read(url: str, path: str, method: str = "GET") -> bytes:
    """What a router answers. Raises ConfigError with what to do."""
    from mserve.runtime.errors import ConfigError

    token = os.environ.get(ADMIN_TOKEN)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        request = Request(f"{_base(url)}{path}", headers=headers, method=method)
        with urlopen(request, timeout=TIMEOUT_S) as response:
            body: bytes = response.read()
            return body
    except HTTPError as error:
        raise ConfigError(_refused(url, error)) from None
    except ValueError:
        raise ConfigError(f"{url} is not the URL of a router of mserve.") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"No router answers at {url} ({reason}). Give the URL that `mserve serve` or `mserve "
            "router` printed."
        ) from None


def _refused(url: str, error: HTTPError) -> str:
    """The router's own words, if it was one."""
    try:
        message: str = json.loads(error.read())["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return f"{url} answered {error.code}: is it a router of mserve?"
    return message


def _base(url: str) -> str:
    """For any form in which people write a router's URL."""
    base = url if "://" in url else f"http://{url}"
    return base.rstrip("/").removesuffix("/v1")


def _why(arguments: argparse.Namespace) -> int:
    from mserve.runtime.router.timeline import render_timeline

    given = arguments.id.partition(";")[0].strip()  # people paste the whole header
    plans = _simulated(arguments.url, given) or _plans(arguments.url, given)
    if arguments.format == "json":
        print(json.dumps(plans[0] if len(plans) == 1 else plans, indent=2))
    else:
        print("\n\n".join(map(render_timeline, plans)))
    return 0


def _simulated(where: str, given: str) -> "list[dict[str, Any]]":
    """The plan in a file; empty where there is no such file. Raises ConfigError."""
    from mserve.runtime.errors import ConfigError

    if Path(where).is_file():
        from mserve.runtime.simulator.plan_file import read_plan

        return [read_plan(Path(where), given)]
    if Path(where).suffix in (".json", ".jsonl"):
        raise ConfigError(
            f"There is no file {where}; `mserve simulate ... --plans FILE` writes one."
        )
    return []


def _plans(url: str, given: str) -> "list[dict[str, Any]]":
    """The plan of this id, or all of the request of this id. Raises ConfigError for neither."""
    from urllib.parse import quote

    from mserve.runtime.errors import ConfigError

    given = quote(given, safe="")
    try:
        return [json.loads(_read(url, f"/v1/plans/{given}"))]
    except ConfigError as unknown_plan:
        try:
            listed = json.loads(_read(url, f"/v1/plans/of/{given}"))["plans"]
        except ConfigError:
            raise unknown_plan from None
    return [json.loads(_read(url, f"/v1/plans/{entry['id']}")) for entry in listed]


def _drain(arguments: argparse.Namespace) -> int:
    from urllib.parse import quote

    path = f"/v1/workers/{quote(arguments.worker, safe='')}/drain"
    _read(arguments.url, path, method="POST")
    print(f"{arguments.worker} takes no more requests; it ends when those it has are done")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    while True:
        view = read_cluster(arguments.url)
        if arguments.format == "json":
            print(_json(view))
        else:
            print(table(view))
        if not arguments.watch:
            return 0
        sys.stdout.flush()
        time.sleep(1.0)
        print()


def _json(view: "ClusterView") -> str:
    from msgspec import to_builtins

    return json.dumps(to_builtins(view), indent=2)


COLUMNS = (
    "worker",
    "pool",
    "state",
    "heard",
    "running",
    "waiting",
    "load",
    "kv used",
    "cached",
    "of tokens",
    "tickets",
)
_LEFT = 3  # columns of text


def table(view: "ClusterView") -> str:
    """A line about the strategy, then one per worker, pools without one, and what was cached."""
    rows = [COLUMNS, *(_row(worker) for worker in view.workers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [f"strategy {view.strategy}, model {view.model}, {_count(view)}", ""]
    lines += [_line(row, widths) for row in rows] if view.workers else []
    served = Counter(worker.pool for worker in view.workers if worker.state == "ready")
    for pool in view.pools:
        if not served[pool.name]:
            lines.append(f"pool '{pool.name}' has no worker that takes requests")
        elif served[pool.name] < pool.workers:
            count = f"{served[pool.name]} of the {pool.workers}"
            lines.append(f"pool '{pool.name}' has {count} workers that the strategy declares")
    if view.prompts.tokens:
        lines += ["", _cached(view.prompts)]
    return "\n".join(lines)


def _cached(prompts: "PromptsView") -> str:
    available, routed, delivered = (
        f"{count / prompts.tokens:.0%}"
        for count in (prompts.available, prompts.routed, prompts.delivered)
    )
    return (
        f"of {prompts.tokens:,} prompt tokens, {available} were cached on some worker, {routed} on "
        f"a chosen one, and {delivered} were not computed again"
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if index < _LEFT else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _count(view: "ClusterView") -> str:
    ready = sum(1 for worker in view.workers if worker.state == "ready")
    return f"{ready} of {len(view.workers)} workers ready"


def _row(worker: "WorkerView") -> tuple[str, ...]:
    total = worker.kv_total_tokens or 1
    return (
        worker.name,
        worker.pool,
        worker.state,
        f"{worker.heard_s:.1f} s",
        str(worker.running),
        str(worker.waiting),
        _seconds(worker.load_s),
        f"{worker.kv_used_tokens / total:.0%}",
        f"{worker.kv_cached_tokens / total:.0%}",
        f"{worker.kv_total_tokens:,}",
        str(worker.tickets),
    )


def _seconds(value: float) -> str:
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"
