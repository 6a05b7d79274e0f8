"""Simulations one after the other: of strategies on clusters, at the points of a sweep, with seeds.

Owns what is shown meanwhile, and keeps results together. Knows not which runs there are, and no figures.
"""

import argparse
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mserve.runtime.cli import scenario
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
    """Makes `num_runs` simulations, each when it is asked for."""

    def __init__(self, arguments: argparse.Namespace, num_runs: int) -> None:
        self._arguments = arguments
        self._num_runs = num_runs
        self._num_begun = 0

    def run(
        self, case: Case, point: Point, seed: int, listeners: "Listeners | None" = None
    ) -> "Result":
        """With the case's own params, whatever became of them in a run before. Raises ConfigError, and
        KeyboardInterrupt that says how far it came."""
        self._num_begun += 1
        arguments = copy.copy(self._arguments)
        if point.param == RATE:
            arguments.rate = point.value
        for name, value in _params(case, point).items():
            case.strategy.set_param(name, value)
        simulation, arrivals = scenario.prepared(
            case.strategy, case.size, arguments, seed, listeners
        )
        progress = ""

        def show(num_ended: int, now_s: float) -> None:
            nonlocal progress
            far = f"{num_ended:,} requests ended, {now_s:,.0f} s simulated"
            progress = self._told(case, point, far)
            line.show(progress)

        with StatusLine() as line, _quiet():
            try:
                return remarked(simulation.run(arrivals, show), arguments)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(progress) from None

    def column(self, case: Case, sweep: Sweep, seeds: Sequence[int], *, records: bool) -> Column:
        """At every point, with every seed; raises as `run`. Workers are recorded in the first run."""
        from mserve.runtime.simulator.lanes import LaneRecorder
        from mserve.runtime.simulator.simulation import NOBODY, Listeners

        recorder = LaneRecorder() if records else None
        told = NOBODY if recorder is None else Listeners([recorder.record])
        results: list[list[Result]] = [[] for _ in sweep.points]
        for point, of_point in zip(sweep.points, results, strict=True):
            for seed in seeds:
                of_point.append(self.run(case, point, seed, told))
                told = NOBODY
        return Column(case, results, recorder)

    def _told(self, case: Case, point: Point, far: str) -> str:
        if self._num_runs == 1:
            return far
        name = " ".join(filter(None, [case.name, point.name]))
        num_left = self._num_runs - self._num_begun
        return f"{name}: {far}; {num_left or 'no'} more to come"


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
