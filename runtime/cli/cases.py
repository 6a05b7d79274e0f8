"""Simulations of strategies on clusters, at the points of a sweep, with seeds.

Owns what is shown meanwhile, and keeps results together. Knows not which runs there are, and no figures.
"""

import argparse
import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from mserve.runtime.cli import scenario
from mserve.runtime.cli.jobs import Job, Jobs, Made
from mserve.runtime.cli.output import StatusLine
from mserve.runtime.cli.remarks import remarked
from mserve.runtime.cli.sweeps import RATE, Point, Sweep

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.results import Result
    from mserve.runtime.simulator.simulation import Listeners
    from mserve.runtime.simulator.sizes import ClusterSize
    from mserve.runtime.simulator.splits import Tried
    from mserve.runtime.simulator.sweeps import SweptRuns
    from mserve.runtime.traffic.outcomes import Goals, Summary


@dataclass(frozen=True, slots=True)
class Case:
    """A strategy with these params on a cluster, under a name of its own."""

    name: str
    file: str
    strategy: "CompiledStrategy"
    params: Mapping[str, float]
    size: "ClusterSize"


@dataclass(frozen=True, slots=True)
class Column:
    """A case's results, by the points of a sweep and then by seed; what its workers did in the first of
    them, where that was recorded; and the splits that it was chosen from."""

    case: Case
    results: "list[list[Result]]"
    recorder: "LaneRecorder | None" = None
    tried: "Sequence[Tried]" = ()

    @property
    def all_results(self) -> "list[Result]":
        return [result for seeds in self.results for result in seeds]


def summaries(results: "Sequence[Result]", goals: "Goals | None") -> "list[Summary]":
    from mserve.runtime.simulator.report import summary_of

    return [summary_of(result, goals) for result in results]


def swept_runs(columns: Sequence[Column], sweep: Sweep, goals: "Goals | None") -> "SweptRuns":
    from mserve.runtime.simulator.sweeps import SweptRuns

    runs = {each.case.name: [summaries(seeds, goals) for seeds in each.results] for each in columns}
    return SweptRuns(sweep.param, sweep.texts, runs, goals, sweep.axis)


class Runner:
    """Makes `num_runs` simulations: each when it is asked for, or, with --jobs, several ahead in processes
    of their own. To be closed, as a context."""

    def __init__(self, arguments: argparse.Namespace, num_runs: int) -> None:
        self._arguments = arguments
        self._num_runs = num_runs
        self._num_begun = 0
        num_jobs = min(arguments.jobs, num_runs)
        self._jobs = Jobs(_simulate_job, arguments, num_jobs) if num_jobs > 1 else None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        if self._jobs is not None:
            self._jobs.close()

    def run(
        self, case: Case, point: Point, seed: int, listeners: "Listeners | None" = None
    ) -> "Result":
        """In this process. Raises ConfigError, a SimulationError, and KeyboardInterrupt that says how far
        it came."""
        self._num_begun += 1
        progress = ""

        def show(num_ended: int, now_s: float) -> None:
            nonlocal progress
            far = f"{num_ended:,} requests ended, {now_s:,.0f} s simulated"
            progress = self._told(case, point, far)
            line.show(progress)

        with StatusLine() as line:
            try:
                return simulated(case, point, seed, self._arguments, listeners, show)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(progress) from None

    def prepare(self, case: Case, sweep: Sweep, seeds: Sequence[int], *, records: bool) -> None:
        """A `column` that will be asked for: where there are processes for it, they begin."""
        if self._jobs is not None:
            for job in _jobs_of(case, sweep, seeds, records=records):
                self._jobs.start(job)

    def column(self, case: Case, sweep: Sweep, seeds: Sequence[int], *, records: bool) -> Column:
        """At every point, with every seed; raises as `run`. Workers are recorded in the first run."""
        made = [self._made(case, job) for job in _jobs_of(case, sweep, seeds, records=records)]
        results = [result for result, _ in made]
        each = len(seeds)
        by_point = [results[i * each : (i + 1) * each] for i in range(len(sweep.points))]
        return Column(case, by_point, made[0][1] if made else None)

    def _made(self, case: Case, job: Job) -> Made:
        from mserve.runtime.simulator.lanes import LaneRecorder
        from mserve.runtime.simulator.loop import SimulationError
        from mserve.runtime.simulator.simulation import Listeners

        if self._jobs is not None:
            with StatusLine() as line, suppress(SimulationError):  # its cause is lost on the way
                return self._jobs.result(job, line.show)
        recorder = LaneRecorder() if job.is_recorded else None
        listeners = Listeners([recorder.record]) if recorder is not None else None
        return self.run(case, job.point, job.seed, listeners), recorder

    def _told(self, case: Case, point: Point, far: str) -> str:
        if self._num_runs == 1:
            return far
        name = " ".join(filter(None, [case.name, point.name]))
        num_left = self._num_runs - self._num_begun
        return f"{name}: {far}; {num_left or 'no'} more to come"


def simulated(
    case: Case,
    point: Point,
    seed: int,
    arguments: argparse.Namespace,
    listeners: "Listeners | None" = None,
    show: Callable[[int, float], None] | None = None,
) -> "Result":
    """With the case's own params, whatever became of them in a run before. Raises ConfigError, and a
    SimulationError."""
    if point.param == RATE:
        arguments = copy.copy(arguments)
        arguments.rate = point.value
    for name, value in _params(case, point).items():
        case.strategy.set_param(name, value)
    simulation, arrivals = scenario.prepared(case.strategy, case.size, arguments, seed, listeners)
    with _quiet():
        return remarked(simulation.run(arrivals, show), arguments)


def _jobs_of(case: Case, sweep: Sweep, seeds: Sequence[int], *, records: bool) -> list[Job]:
    """By point and then by seed; the first is recorded, if any is."""
    runs = list(product(sweep.points, seeds))
    return [
        Job(case.file, case.params, case.size, point, seed, records and number == 0)
        for number, (point, seed) in enumerate(runs)
    ]


def _simulate_job(arguments: argparse.Namespace, job: Job) -> Made:
    """In a process of its own."""
    from mserve.runtime.cli.strategies import compiled
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.simulation import Listeners

    strategy = compiled(job.file)
    assert strategy is not None, "the strategy has been compiled before"
    case = Case(strategy.name, job.file, strategy, job.params, job.size)
    recorder = LaneRecorder() if job.is_recorded else None
    listeners = Listeners([recorder.record]) if recorder is not None else None
    return simulated(case, job.point, job.seed, arguments, listeners), recorder


def _params(case: Case, point: Point) -> Mapping[str, float]:
    is_param = point.param not in ("", RATE)
    return {**case.params, point.param: point.value} if is_param else case.params


@contextmanager
def _quiet() -> Iterator[None]:
    """What router and workers log is of no real cluster; results say what happened."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
