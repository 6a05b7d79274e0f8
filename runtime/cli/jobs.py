"""Simulations in processes of their own, several at a time.

Each process reads the strategy anew, by its file. Knows not which runs there are, nor what for.
"""

import argparse
import multiprocessing
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from mserve.runtime.cli.sweeps import Point
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.results import Result
    from mserve.runtime.simulator.sizes import ClusterSize

_Key = tuple[str, str, str, int]
POLL_S = 0.2  # between looks at how many have ended


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation, by what can be sent to a process. Told apart by `key`."""

    file: str
    params: Mapping[str, float]
    size: "ClusterSize"
    point: "Point"
    seed: int
    is_recorded: bool

    @property
    def key(self) -> _Key:
        return self.file, str(self.size), self.point.name, self.seed


Made: TypeAlias = "tuple[Result, LaneRecorder | None]"
"""What came of a job, and what its workers did, if that was recorded."""


class Jobs:
    """At most `num_processes` at a time, in the order in which they were started."""

    def __init__(
        self,
        simulate: Callable[[argparse.Namespace, Job], Made],
        arguments: argparse.Namespace,
        num_processes: int,
        start_method: Literal["spawn", "fork"] = "spawn",
    ) -> None:
        """`simulate` is a function of a module that a started process can import."""
        self._simulate = simulate
        plain = {name: value for name, value in vars(arguments).items() if not callable(value)}
        self._arguments = argparse.Namespace(**plain)
        self._pool = ProcessPoolExecutor(
            num_processes, multiprocessing.get_context(start_method), initializer=_leave_interrupts
        )
        self._futures: dict[_Key, Future[Made]] = {}

    def start(self, job: Job) -> None:
        self._futures[job.key] = self._pool.submit(self._simulate, self._arguments, job)

    def result(self, job: Job, show: Callable[[str], None]) -> Made:
        """Of one that was started; `show` is told how far all of them are. Raises what it raised, and
        ConfigError where a process was killed."""
        from mserve.runtime.errors import ConfigError

        future = self._futures[job.key]
        while not wait([future], POLL_S).done:
            num_done = sum(each.done() for each in self._futures.values())
            show(f"{num_done} of {len(self._futures)} simulations have ended")
        try:
            return future.result()
        except BrokenProcessPool:
            raise ConfigError(
                "The process of a simulation was killed, perhaps for lack of memory: try fewer --jobs."
            ) from None

    def close(self) -> None:
        """Ends those under way, too. A command has no other children."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=_at_least_1,
        default=1,
        metavar="N",
        help="simulations at a time, where there are several (default: %(default)s); of each, memory"
        " holds its requests",
    )


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number of at least 1, not {text!r}")
    return int(text)


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
