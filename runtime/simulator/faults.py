"""Faults of a simulation, as an operator writes them and as a schedule. Data only: outages.py does them.

kill decode-1 at 30s
restart decode-1 at 60s
random:every=60s,repair=30s
"""

import math
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from random import Random

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.objectives import seconds
from mserve.runtime.traffic.suggestions import near_miss

_TIMED = re.compile(r"(kill|restart)\s+(\S+)\s+at\s+(.+)")
_RANDOM = re.compile(r"random\s*:(.*)")
_SETTINGS = ("every", "repair")


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker dies at once, `at_s` after the traffic has begun; if it did, it comes back `repair_s`
    later."""

    worker: str
    at_s: float
    repair_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Restart:
    """A worker comes back empty, `at_s` after the traffic has begun; one that lives dies first."""

    worker: str
    at_s: float


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Every `every_s` on average some worker dies; `repair_s` later it comes back."""

    every_s: float
    repair_s: float


TimedFault = Kill | Restart


def fault(text: str) -> TimedFault | RandomFaults:
    """Raises ConfigError."""
    timed, random = _TIMED.fullmatch(text.strip()), _RANDOM.fullmatch(text.strip())
    if timed is not None:
        kind = Kill if timed[1] == "kill" else Restart
        return kind(timed[2], seconds(timed[3], "--fault", may_be_0=True))
    if random is not None:
        return _random_faults(random[1])
    raise ConfigError(
        "--fault takes 'kill WORKER at TIME', 'restart WORKER at TIME' or"
        f" 'random:every=60s,repair=30s', not {text!r}."
    )


def _random_faults(text: str) -> RandomFaults:
    given: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _SETTINGS or name in given:
            raise ConfigError(
                f"--fault random takes `every` and `repair` once, as in"
                f" 'random:every=60s,repair=30s', not {part!r}."
            )
        given[name] = seconds(value, f"--fault random:{name}")
    for name in _SETTINGS:
        if name not in given:
            raise ConfigError(f"--fault random lacks `{name}`: add it, as `{name}=30s`.")
    return RandomFaults(given["every"], given["repair"])


def schedule(
    faults: Sequence[TimedFault | RandomFaults],
    workers: Sequence[str],
    seed: int = 0,
    cluster: str = "The cluster",
) -> Iterator[TimedFault]:
    """In the order of time; endless where some are random. The random ones depend on the seed and on
    the workers' names alone, so that every strategy meets the same. Raises ConfigError for a worker
    that is not there, with the name of the `cluster`."""
    timed = [each for each in faults if not isinstance(each, RandomFaults)]
    for each in timed:
        _check_worker(each.worker, workers, cluster)
    drawn = [
        _draw(each, workers, Random(f"faults {number} of {seed}"))
        for number, each in enumerate(faults)
        if isinstance(each, RandomFaults)
    ]
    in_time = attrgetter("at_s")
    return merge(sorted(timed, key=in_time), *drawn, key=in_time)


def _draw(each: RandomFaults, workers: Sequence[str], random: Random) -> Iterator[TimedFault]:
    """Gaps are exponential, victims equally likely among those that are not being repaired."""
    down: deque[Kill] = deque()  # those that are being repaired
    now_s = 0.0
    while True:
        now_s += random.expovariate(1 / each.every_s)
        if len(down) == len(workers):  # the next one must come back first
            now_s = max(now_s, down[0].at_s + each.repair_s)
        while down and down[0].at_s + each.repair_s <= now_s:
            down.popleft()
        gone = {kill.worker for kill in down}
        victim = random.choice([worker for worker in workers if worker not in gone])
        down.append(Kill(victim, now_s, each.repair_s))
        yield down[-1]


def _check_worker(name: str, workers: Sequence[str], cluster: str) -> None:
    if name in workers:
        return
    near = near_miss(name, workers)
    hint = f"did you mean {near!r}? It has" if near else "it has"
    raise ConfigError(f"{cluster} has no worker {name!r} for a fault; {hint} {_listed(workers)}.")


def _listed(workers: Sequence[str]) -> str:
    """Pool by pool, counted from 0: `prefill-0, decode-0 to decode-3`."""
    sizes = Counter(name.rpartition("-")[0] for name in workers)
    ends = ((f"{pool}-0", f"{pool}-{size - 1}") for pool, size in sizes.items())
    return ", ".join(first if first == last else f"{first} to {last}" for first, last in ends)
