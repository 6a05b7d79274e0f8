"""Does anything leak, break or come out wrong while everything fails at once? Drawn from a seed.

    python bench/chaos.py [--seed N] [--seconds S] [--strategy NAME] [--clients N] [--json FILE]

A real cluster of a shipped strategy: its own Redis, `mserve serve`, and a second router. Clients ask,
read, and leave when they like; meanwhile workers, the second router and Redis are killed, frozen and
started again. Then all is left in peace, and

  - no worker holds a plan, a ticket, a transfer or a pinned page;
  - every answer that came to its end is the one of a calm cluster, to the character;
  - what a client had read of any other is the beginning of that answer;
  - every request that failed has got an error that says why; only those of a killed router may break.

The seed decides on the cluster, the requests and the disturbances; how they meet, the machine does.
"""

import argparse
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mserve.runtime.cluster.launch import free_port
from mserve.runtime.cluster.redis_server import executables
from record import write_record
from served import CLUSTER_TOKEN, MSERVE, Served, serving, started
from traffic import Asked, Seen, ask, catalogue, difference, fault_of, has_near_tie

SPLIT, ALIKE = {"prefill": 2, "decode": 2}, {"workers": 3}
STRATEGIES = {
    **dict.fromkeys(("data_parallel", "least_loaded", "migration", "handoff"), ALIKE),
    **dict.fromkeys(("prefill_decode", "cache_aware", "balanced", "deflect", "adaptive"), SPLIT),
    "pipeline_prefill": {"prefill": 3, "decode": 1},
}
ENGINE = ("--chunk-tokens", "128", "--threads", "1")
KV_MEMORY = ("32MiB", "6MiB")  # room for all, and for a few
STEP_DELAY_S = 0.01
CLEAN_WITHIN_S = 5.0
READY_WITHIN_S = 60.0


@dataclass
class Part:
    """A process that may be killed and started again: Redis, the second router."""

    argv: list[str]
    ready: str
    env: dict[str, str] | None = None
    deaths: list[tuple[float, float]] = field(default_factory=list)  # from, to (monotonic)
    url: str = ""
    _life: ExitStack = field(default_factory=ExitStack)

    @property
    def is_dead(self) -> bool:
        return bool(self.deaths) and self.deaths[-1][1] == float("inf")

    def start(self) -> None:
        _, self.url, _ = self._life.enter_context(started(self.argv, self.env, self.ready))
        if self.is_dead:
            self.deaths[-1] = (self.deaths[-1][0], time.monotonic())

    def kill(self) -> None:
        self.deaths.append((time.monotonic(), float("inf")))
        self._life.close()

    def was_dead_between(self, begin_s: float, end_s: float) -> bool:
        return any(begin_s <= until_s and from_s <= end_s for from_s, until_s in self.deaths)


@dataclass
class Chaos:
    """One cluster, its clients and its misfortunes."""

    server: Served
    redis: Part
    router: Part
    workers: list[str]
    requests: list[Asked]
    seed: int
    done: threading.Event = field(default_factory=threading.Event)
    seen: list[Seen] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    # --- clients ---

    def client(self, number: int) -> None:
        """Asks one thing after the other, now here and now there, and does not always stay."""
        rng = random.Random(f"{self.seed} client {number}")
        while not self.done.is_set():
            url = rng.choice((self.server.url, self.server.url, self.router.url))
            leave_after = rng.choice((0, 1, 5, 20)) if rng.random() < 0.25 else None
            asked = rng.choice(self.requests)
            self.seen.append(ask(url, asked, leave_after=leave_after))
            if self.seen[-1].broken and not self.seen[-1].arrived_s:
                self.done.wait(0.5)  # nobody is there

    # --- misfortunes ---

    def disturb(self, until_s: float) -> None:
        """One misfortune after the other, some of them at the same time; all is mended at the end."""
        rng = random.Random(f"{self.seed} disturbances")
        mending: list[tuple[float, Callable[[], None]]] = []
        kinds = (self._kill, self._freeze, self._freeze, self._kill_redis, self._kill_router)
        while (now_s := time.monotonic()) < until_s:
            for due in [each for each in mending if each[0] <= now_s]:
                mending.remove(due)
                due[1]()
            if mend := rng.choice(kinds)(rng):
                mending.append((now_s + rng.uniform(0.1, 4.0), mend))
            time.sleep(rng.uniform(0.2, 2.0))
        for _, mend in mending:
            mend()

    def _kill(self, rng: random.Random) -> None:
        victim, who = rng.choice(self.workers), rng.choice(("front", "engine"))
        with suppress(ProcessLookupError, ValueError):  # it is just being started
            os.kill(self._pid(victim, who), signal.SIGKILL)
            self.happened[f"{who} killed"] += 1

    def _freeze(self, rng: random.Random) -> Callable[[], None] | None:
        victim, who = rng.choice(self.workers), rng.choice(("front", "engine"))
        try:
            pid = self._pid(victim, who)
            os.kill(pid, signal.SIGSTOP)
        except (ProcessLookupError, ValueError):
            return None
        self.happened[f"{who} frozen"] += 1

        def thaw() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        return thaw

    def _kill_redis(self, rng: random.Random) -> Callable[[], None] | None:
        return self._kill_part(self.redis, "Redis killed")

    def _kill_router(self, rng: random.Random) -> Callable[[], None] | None:
        return self._kill_part(self.router, "router killed")

    def _kill_part(self, part: Part, what: str) -> Callable[[], None] | None:
        if part.is_dead:
            return None
        self.happened[what] += 1
        part.kill()
        return lambda: self._start(part)

    def _start(self, part: Part) -> None:
        """Nothing starts without Redis."""
        for each in (self.redis, part):
            if each.is_dead:
                each.start()

    def _pid(self, worker: str, who: str) -> int:
        return self.server.front(worker) if who == "front" else self.server.engine(worker)

    # --- the reckoning ---

    def reckon(self) -> list[str]:
        """Everything that is not as it must be."""
        try:
            self.server.wait_ready(len(self.workers), READY_WITHIN_S)
            self.server.wait_clean(CLEAN_WITHIN_S)
        except AssertionError as error:
            return [f"not clean: {error}"]
        asked = {id(seen.asked): seen.asked for seen in self.seen if not seen.asked.must_fail}
        with ThreadPoolExecutor(4) as pool:
            calm = list(pool.map(lambda each: ask(self.server.url, each), asked.values()))
        expected = {id(seen.asked): seen for seen in calm}
        findings = [
            f"fails in peace: {difference(each, None)}" for each in calm if not each.is_whole
        ]
        for seen in self.seen:
            fault = fault_of(seen, expected.get(id(seen.asked)), router_died=self._died(seen))
            if fault == "another answer" and has_near_tie(self.server.url, seen.asked):
                self.happened["near tie decided otherwise"] += 1
            elif fault:
                findings.append(f"{fault}: {difference(seen, expected.get(id(seen.asked)))}")
        with suppress(AssertionError):
            self.server.wait_clean(CLEAN_WITHIN_S)
            return findings
        return [*findings, f"not clean in the end: {self.server.states()}"]

    def _died(self, seen: Seen) -> bool:
        is_other = seen.url != self.server.url
        return is_other and self.router.was_dead_between(seen.began_s - 0.05, seen.ended_s + 0.05)

    def summary(self) -> str:
        whole = sum(seen.is_whole for seen in self.seen)
        left = sum(seen.has_left for seen in self.seen)
        broken = sum(bool(seen.broken) for seen in self.seen)
        errors = Counter(seen.error_type for seen in self.seen if seen.error)
        return (
            f"{len(self.seen)} requests: {whole} whole, {left} left, {broken} broken with their"
            f" router, errors {dict(errors)}; {dict(self.happened)}"
        )


@contextmanager
def chaos(seed: int, strategy: str = "", num_requests: int = 40) -> Iterator[Chaos]:
    """A cluster that is ready, and nothing has happened yet."""
    rng = random.Random(seed)
    strategy = strategy or rng.choice(sorted(STRATEGIES))
    pools = STRATEGIES[strategy]
    port, router_port = free_port(), free_port()
    url = f"redis://127.0.0.1:{port}/0"
    redis = Part([next(executables()), "--port", str(port), "--save", ""], "(Ready to accept)")
    router_argv = [*MSERVE, "router", strategy, "--redis", url, "--port", str(router_port)]
    env = {**os.environ, "MSERVE_CLUSTER_TOKEN": CLUSTER_TOKEN}
    router = Part([*router_argv, "--log-level", "warning"], r"ready: (http://\S+)/v1", env)
    counts = [word for pool, n in pools.items() for word in ("--cluster", f"{pool}={n}")]
    redis.start()
    arguments = ("--redis", url, *counts, *ENGINE, "--kv-memory", rng.choice(KV_MEMORY))
    try:
        with serving(strategy, *arguments, step_delay_s=STEP_DELAY_S) as server:
            router.start()
            names = [f"{pool}-{index}" for pool, n in pools.items() for index in range(n)]
            yield Chaos(server, redis, router, names, catalogue(rng, num_requests), seed)
    finally:
        router.kill()
        redis.kill()


def run(chaos: Chaos, seconds: float, clients: int = 6) -> list[str]:
    """What was found after so long; empty is good."""
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(chaos.client, number) for number in range(clients)]
        try:
            chaos.disturb(time.monotonic() + seconds)
        finally:
            chaos.done.set()
        for each in asking:
            each.result()
    return chaos.reckon()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--strategy", default="", choices=["", *STRATEGIES])
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--log", type=Path, help="write the cluster's log here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    seed = random.randrange(10_000) if options.seed is None else options.seed
    num_requests = max(10, int(options.seconds / 2))
    with chaos(seed, options.strategy, num_requests) as cluster:
        print(f"seed {seed}: {', '.join(cluster.workers)}", flush=True)
        try:
            findings = run(cluster, options.seconds, options.clients)
        finally:
            if options.log:
                options.log.write_text("".join(cluster.server.log))
    print(cluster.summary())
    for finding in itertools.islice(findings, 10):
        print(f"FOUND: {finding}")
    write_record(
        options.json,
        "What is left, broken or wrong after everything has failed at once",
        ["mserve", "torch", "ucxx-cu13"],
        seed=seed,
        seconds=options.seconds,
        happened=dict(cluster.happened),
        requests=len(cluster.seen),
        whole=sum(seen.is_whole for seen in cluster.seen),
        findings=len(findings),
    )
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
