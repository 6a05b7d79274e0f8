"""How long do failures last? Real processes are killed and frozen; the pauses and the frees are timed.

    python bench/failures.py [--rounds N] [--json FILE]

    client leaves         the client's connection is closed -> no page is pinned anywhere
    engine killed         a worker's engine or HTTP process is killed while it computes, receives,
    front killed          sends or answers -> the client's next token; and -> the pages that the broken
                          plan held on other workers are free
    engine frozen         the same with SIGSTOP
    front frozen
    router killed         -> its workers hold no page (a router and workers of their own)

The cluster is `balanced` with two workers per pool; one greedy stream at a time, whose answer must
equal that of an undisturbed one. Bars: a killed worker's stream resumes within 2 s, a frozen one's
within 5 s, pages are free within 2 s (p99).
"""

import argparse
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mserve.runtime.cluster.launch import free_port
from mserve.runtime.cluster.redis_server import executables
from record import write_record
from served import MSERVE, Served, serving, started, until

STORY = "The little girl opened the door and went into the garden. " * 45
ARGUMENTS = ("--cluster", "prefill=2", "--cluster", "decode=2", "--kv-memory", "32MiB")
PHASES = ("prefill", "send", "receive", "first_token", "decode")


@dataclass
class Times:
    """Seconds of one kind of failure; a bar of 0 is none."""

    what: str
    bar_s: float
    seconds: list[float] = field(default_factory=list)

    def row(self) -> str:
        p50, p99 = percentile(self.seconds, 50), percentile(self.seconds, 99)
        verdict = "ok" if p99 <= self.bar_s else "MISSED"
        return f"{self.what:44} {len(self.seconds):4} {p50:7.2f} {p99:7.2f} {self.bar_s:6.1f}  {verdict}"

    def summary(self) -> dict[str, Any]:
        p50, p99 = percentile(self.seconds, 50), percentile(self.seconds, 99)
        return {"what": self.what, "rounds": len(self.seconds), "p50_s": p50, "p99_s": p99}


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@contextmanager
def cluster() -> Iterator[Served]:
    with serving("balanced", *ARGUMENTS, "--chunk-tokens", "128", step_delay_s=0.01) as server:
        server.wait_ready(4)
        yield server


def client_leaves(rounds: int) -> list[Times]:
    times = Times("client leaves -> no page pinned", 1.0)
    with cluster() as server:
        for number in range(rounds):
            with closing(server.connect()) as line:
                server.begin(line, f"{number} {STORY}", max_tokens=900)
                until(lambda: any(state["plans"] for state in server.states()), 5)
            times.seconds.append(server.wait_clean(10))
    return [times]


def worker_fails(victim: str, number: signal.Signals, rounds: int, bar_s: float) -> list[Times]:
    how = "killed" if number is signal.SIGKILL else "frozen"
    resumed = Times(f"{victim} {how} -> next token", bar_s)
    freed = Times(f"{victim} {how} -> others' pages of the plan free", 2.0)
    with cluster() as server:
        for index, phase in zip(range(rounds), itertools.cycle(PHASES), strict=False):
            resume_s, free_s = disturb(server, phase, victim, number, f"{index} {STORY}")
            resumed.seconds.append(resume_s)
            freed.seconds.append(free_s)
    return [resumed, freed] if number is signal.SIGKILL else [resumed]


def disturb(
    server: Served, phase: str, victim: str, number: signal.Signals, prompt: str
) -> tuple[float, float]:
    """Seconds until the stream went on, and until nobody held pages of the first attempt."""

    def nobody_holds() -> bool:
        plans = (plan for state in server.states() for plan in state["plans"])
        return not any(plan.endswith("/0") for plan in plans)

    def freed_at_s() -> float:
        until((server.sabotage / "taken").exists, 30)
        if number is signal.SIGKILL:
            until(nobody_holds, 30)
        return time.monotonic()

    server.order(phase, victim, number)
    with ThreadPoolExecutor(1) as pool:
        freed = pool.submit(freed_at_s)
        answer = server.stream(prompt)
        at_s = freed.result()
    taken = server.taken()
    assert taken is not None, f"no worker came to {phase}"
    assert answer.text == server.stream(prompt).text, "the answer is another one"
    for pid in (taken.front, taken.engine):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    server.wait_ready(4)
    return answer.resumed_after(taken.at_s), at_s - taken.at_s


def router_is_killed(rounds: int) -> list[Times]:
    """A router of its own over two workers that stay."""
    times = Times("router killed -> no page pinned", 2.0)
    port = free_port()
    cluster = ("--redis", f"redis://127.0.0.1:{port}/0")
    serves = r"serves at (http://[\d.:]+)"
    with ExitStack() as stack:
        redis = [next(executables()), "--port", str(port), "--save", ""]
        stack.enter_context(started(redis, ready=r"(Ready to accept)"))
        for index in range(2):
            argv = [*MSERVE, "worker", "--pool", "workers", "--name", f"workers-{index}", *cluster]
            argv.append("--checksum-kv")
            stack.enter_context(started(argv, ready=serves))
        for _ in range(rounds):
            argv = [*MSERVE, "router", "least_loaded", *cluster, "--port", "0"]
            with started(argv) as (process, url, log):
                server = Served(process, url, log, Path())
                server.wait_ready(2)
                times.seconds.append(_kill_router(server))
    return [times]


def _kill_router(server: Served) -> float:
    urls = [worker["url"] for worker in server.workers()]

    def states() -> list[Any]:
        return [server.ask("/v1/microserving/state", url=url)[1] for url in urls]

    with closing(server.connect()) as line:
        server.begin(line, STORY, max_tokens=900)
        until(lambda: any(state["plans"] for state in states()), 5)
        server.process.kill()
        return until(lambda: not any(s["kv"]["kv_used_tokens"] for s in states()), 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rounds = options.rounds
    few = max(1, rounds // 3)  # of what takes long
    print(f"{'':44} {'n':>4} {'p50 s':>7} {'p99 s':>7} {'bar':>6}")
    all_times: list[Times] = []
    measures: tuple[Callable[[], list[Times]], ...] = (
        lambda: client_leaves(rounds),
        lambda: worker_fails("engine", signal.SIGKILL, rounds, 2.0),
        lambda: worker_fails("front", signal.SIGKILL, rounds, 2.0),
        lambda: worker_fails("engine", signal.SIGSTOP, few, 5.0),
        lambda: worker_fails("front", signal.SIGSTOP, few, 5.0),
        lambda: router_is_killed(few),
    )
    for measure in measures:
        found = measure()
        for times in found:
            print(times.row(), flush=True)
        all_times += found
    write_record(
        options.json,
        "How long failures last",
        ["mserve", "torch", "ucxx-cu13"],
        figures=[times.summary() for times in all_times],
    )


if __name__ == "__main__":
    main()
