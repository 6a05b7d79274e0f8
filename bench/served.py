"""A real cluster to be disturbed: `mserve serve` in its own process, streams from it, what its workers
hold, and orders to the saboteur in their engines. For bench/failures.py and tests/faults.
"""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from traffic import Kind, Seen, ask, request

BENCH = Path(__file__).parent
MSERVE = (sys.executable, "-m", "mserve")
CLUSTER_TOKEN = secrets.token_hex(16)  # with it workers answer us, too
AUTHORIZATION = {"authorization": f"Bearer {CLUSTER_TOKEN}"}
SITE = f"""
import sys
if "mserve.runtime.worker.startup" in sys.orig_argv:
    sys.path.append({str(BENCH)!r})
    import sabotage
    sabotage.arm()
elif "serve" in sys.orig_argv:
    sys.path.append({str(BENCH)!r})
    import sabotage
    sabotage.keep_restarting()
"""


@dataclass
class Taken:
    """An order that was carried out."""

    at_s: float
    engine: int
    front: int


@dataclass
class Served:
    """`sabotage` is the folder of orders."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    sabotage: Path

    # --- asking ---

    def ask(self, path: str, body: Any = None, url: str = "") -> tuple[int, Any]:
        with closing(self.connect(url)) as line:
            if body is None:
                line.request("GET", path, headers=AUTHORIZATION)
            else:
                headers = {"content-type": "application/json", **AUTHORIZATION}
                line.request("POST", path, json.dumps(body), headers)
            response = line.getresponse()
            return response.status, json.loads(response.read())

    def connect(self, url: str = "", timeout_s: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(url or self.url).netloc, timeout=timeout_s)

    def stream(
        self, prompt: str, *, kind: Kind = "completions", max_tokens: int = 48, **more: Any
    ) -> Seen:
        """A greedy streamed answer, read to its end."""
        return ask(self.url, request("greedy", kind, prompt, max_tokens=max_tokens, **more))

    def begin(self, line: http.client.HTTPConnection, prompt: str, *, max_tokens: int) -> None:
        """Asks for a streamed completion on a connection that the caller closes; does not read."""
        asked = request("greedy", "completions", prompt, max_tokens=max_tokens)
        line.request("POST", asked.path, json.dumps(asked.body))

    def workers(self) -> list[dict[str, Any]]:
        """As the router sees them."""
        found: list[dict[str, Any]] = self.ask("/v1/cluster")[1]["workers"]
        return found

    def wait_ready(self, num_workers: int, timeout_s: float = 60) -> None:
        def are_ready() -> bool:
            ready = [w for w in self.workers() if w["state"] == "ready"]
            return len(ready) == num_workers

        until(are_ready, timeout_s, lambda: f"{self.workers()}\n{''.join(self.log[-30:])}")

    def wait_pools(self, needed: Mapping[str, int], timeout_s: float = 60) -> None:
        """Until every pool has so many workers that are ready."""

        def are_ready() -> bool:
            ready = Counter(w["pool"] for w in self.workers() if w["state"] == "ready")
            return all(ready[pool] >= count for pool, count in needed.items())

        until(are_ready, timeout_s, lambda: f"{self.workers()}\n{''.join(self.log[-30:])}")

    def states(self) -> list[dict[str, Any]]:
        """`/v1/microserving/state` of every worker that answers."""
        found = []
        for worker in self.workers():
            with suppress(OSError, http.client.HTTPException):
                status, state = self.ask("/v1/microserving/state", url=worker["url"])
                if status == 200:
                    found.append(state)
        return found

    def is_clean(self) -> bool:
        """No plan, no ticket, no pinned page on any worker that answers."""
        return all(
            not (state["plans"] or state["tickets"] or state["sends"])
            and state["kv"]["kv_used_tokens"] == 0
            for state in self.states()
        )

    def wait_clean(self, timeout_s: float) -> float:
        """Returns after how long."""
        return until(self.is_clean, timeout_s, lambda: str(self.states()))

    # --- disturbing ---

    def order(self, phase: str, victim: str, number: signal.Signals) -> None:
        (self.sabotage / "taken").unlink(missing_ok=True)
        draft = self.sabotage / "order.draft"
        draft.write_text(f"{phase} {victim} {number.name}")
        draft.rename(self.sabotage / "order")

    def taken(self) -> Taken | None:
        """The last order, if an engine has carried it out."""
        (self.sabotage / "order").unlink(missing_ok=True)
        try:
            at_s, engine, front = (self.sabotage / "taken").read_text().split()
        except FileNotFoundError:
            return None
        return Taken(float(at_s), int(engine), int(front))

    def processes(self, name: str) -> list[int]:
        """Children of `mserve serve` with `name` among their arguments."""
        return [pid for pid in children(self.process.pid) if name in arguments_of(pid)]

    def front(self, worker: str) -> int:
        (pid,) = self.processes(worker)
        return pid

    def engine(self, worker: str) -> int:
        (pid,) = children(self.front(worker))
        return pid


@contextmanager
def serving(
    strategy: str, *arguments: str, step_delay_s: float = 0.0, poison: int = -1
) -> Iterator[Served]:
    """Ended by Ctrl-C, or killed if that takes too long."""
    with tempfile.TemporaryDirectory(prefix="mserve-faults-") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(SITE)
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((name, os.environ.get("PYTHONPATH", ""))).strip(
                os.pathsep
            ),
            "MSERVE_CLUSTER_TOKEN": CLUSTER_TOKEN,
            "MSERVE_SABOTAGE": str(folder),
            "MSERVE_STEP_DELAY_S": str(step_delay_s),
            "MSERVE_POISON": str(poison),
        }
        argv = [*MSERVE, "serve", strategy, *arguments, "--checksum-kv", "--port", "0"]
        argv += ["--log-level", "warning"]
        with started(argv, env) as (process, url, log):
            yield Served(process, url, log, folder)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)


@contextmanager
def started(
    argv: list[str], env: dict[str, str] | None = None, ready: str = r"ready: (http://\S+)/v1"
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """(process, what the first group of `ready` matched in its output, its log, growing); killed at
    the end if it is still there."""
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
        cwd="/tmp",
    )
    assert process.stdout is not None
    log: list[str] = []
    reader = None
    try:
        for row in process.stdout:
            log.append(row)
            if found := re.search(ready, row):
                break
        else:
            raise RuntimeError("it ended while it started:\n" + "".join(log))
        reader = threading.Thread(target=lambda: log.extend(process.stdout or ()), daemon=True)
        reader.start()  # a full pipe would stop it
        yield process, found[1], log
    finally:
        family = [process.pid, *descendants(process.pid)]
        if process.poll() is None:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()
        if reader is not None:
            reader.join(5)
        process.stdout.close()


def until(
    holds: Callable[[], bool], timeout_s: float, explain: Callable[[], str] = lambda: ""
) -> float:
    """Waits until `holds()`; returns the seconds it took. Raises AssertionError after `timeout_s`."""
    began_s = time.monotonic()
    while not holds():
        if time.monotonic() - began_s > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {explain()}")
        time.sleep(0.01)
    return time.monotonic() - began_s


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]


def arguments_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
