"""A real cluster to be disturbed: `mserve serve` in its own process, streams from it, what its workers
hold, and orders to the saboteur in their engines. For bench/failures.py and tests/faults.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

BENCH = Path(__file__).parent
MSERVE = (sys.executable, "-m", "mserve")
SITE = f"""
import sys
if "mserve.runtime.worker.startup" in sys.orig_argv:
    sys.path.append({str(BENCH)!r})
    import sabotage
    sabotage.arm()
"""
Kind = Literal["completions", "chat"]


@dataclass
class Stream:
    """A whole answer: its text, and when each piece of it came (monotonic seconds)."""

    text: str = ""
    arrived_s: list[float] = field(default_factory=list)
    completion_tokens: int = 0
    finish: str = ""
    error: str = ""
    plan_id: str = ""

    def resumed_after(self, moment_s: float) -> float:
        """Seconds from `moment_s` to the first piece after the longest pause from then on."""
        ends = [moment_s, *(at for at in self.arrived_s if at > moment_s)]
        pauses = ((end - begin, end) for begin, end in pairwise(ends))
        _, end = max(pauses, default=(0.0, moment_s))
        return end - moment_s


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
                line.request("GET", path)
            else:
                line.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = line.getresponse()
            return response.status, json.loads(response.read())

    def connect(self, url: str = "", timeout_s: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(url or self.url).netloc, timeout=timeout_s)

    def stream(
        self, prompt: str, *, kind: Kind = "completions", max_tokens: int = 48, **more: Any
    ) -> Stream:
        """A greedy streamed answer, read to its end."""
        with closing(self.connect()) as line:
            path = "/v1/completions" if kind == "completions" else "/v1/chat/completions"
            line.request("POST", path, json.dumps(body_of(prompt, kind, max_tokens) | more))
            response = line.getresponse()
            if response.status != 200:
                return Stream(error=response.read().decode())
            answer = Stream(plan_id=response.headers["x-mserve-plan"].partition(";")[0])
            for row in response:
                _take_event(row, answer)
            return answer

    def begin(self, line: http.client.HTTPConnection, prompt: str, *, max_tokens: int) -> None:
        """Asks for a streamed completion on a connection that the caller closes; does not read."""
        line.request(
            "POST", "/v1/completions", json.dumps(body_of(prompt, "completions", max_tokens))
        )

    def workers(self) -> list[dict[str, Any]]:
        """As the router sees them."""
        found: list[dict[str, Any]] = self.ask("/v1/cluster")[1]["workers"]
        return found

    def wait_ready(self, num_workers: int, timeout_s: float = 60) -> None:
        def are_ready() -> bool:
            ready = [w for w in self.workers() if w["state"] == "ready"]
            return len(ready) == num_workers

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


def body_of(prompt: str, kind: Kind, max_tokens: int) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": prompt}
    if kind == "chat":
        asked = {"messages": [{"role": "user", "content": prompt}]}
    return asked | {
        "model": "mserve-tiny",
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _take_event(row: bytes, answer: Stream) -> None:
    if not row.startswith(b"data: {"):
        return
    event = json.loads(row[6:])
    if "error" in event:
        answer.error = event["error"]["message"]
        return
    if event.get("usage"):
        answer.completion_tokens = event["usage"]["completion_tokens"]
    for choice in event["choices"]:
        text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        answer.finish = choice["finish_reason"] or answer.finish
        if text:
            answer.text += text
            answer.arrived_s.append(time.monotonic())


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
            "PYTHONPATH": str(folder),
            "MSERVE_SABOTAGE": str(folder),
            "MSERVE_STEP_DELAY_S": str(step_delay_s),
            "MSERVE_POISON": str(poison),
        }
        argv = [*MSERVE, "serve", strategy, *arguments, "--port", "0", "--log-level", "warning"]
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
