"""How busy each worker of a simulation is over its time: gathered while it runs, then chosen for a page.

Owns which steps are which kind of work, and which workers are shown where there are many. Knows no page:
traffic/lanes.py draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mserve.runtime.engine.batching import Batch
from mserve.runtime.simulator.results import Happened, Result, WorkerUse
from mserve.runtime.simulator.runs import Run
from mserve.runtime.simulator.time_bins import NUM_BINS, TimeBins
from mserve.runtime.traffic.charts import Mark
from mserve.runtime.traffic.lanes import KINDS, Lane, LanePool, Lanes
from mserve.runtime.traffic.outcomes import summarize

MAX_LANES = 16  # of a page's only run
_MAX_LANES_IN_ALL = 48
_FEWEST_PICKED = 3  # the busiest, the idlest, and the mean of the others


def kind_of(batch: Batch) -> str:
    """With prompts in it a step is prefill, whether or not answers go along."""
    if batch.prefill:
        return "prefill"
    return "decode" if batch.decode else "moves"


class LaneRecorder:
    """Pass `record` to a simulation, then ask for the `lanes` of its result."""

    def __init__(self) -> None:
        self._bins = TimeBins()

    def record(self, worker: str, run: Run, end_s: float) -> None:
        self._bins.add((worker, kind_of(run.batch)), run.begin_s, end_s)

    def lanes(self, result: Result, max_lanes: int = MAX_LANES) -> Lanes:
        """At most `max_lanes` of them, but one for each pool."""
        pools: dict[str, list[WorkerUse]] = {}
        for worker in result.workers:
            pools.setdefault(worker.pool, []).append(worker)
        ended_s = max((outcome.ended_s for outcome in result.outcomes), default=0.0)
        end_s = max(ended_s, self._bins.end_s)
        room = shared_out({pool: len(workers) for pool, workers in pools.items()}, max_lanes)
        chosen = [self._pool(workers, room[pool], result.faults) for pool, workers in pools.items()]
        return Lanes(chosen, self._bins.width_s, end_s, summarize(result.outcomes).span_s)

    def _pool(
        self, workers: Sequence[WorkerUse], room: int, faults: Sequence[Happened]
    ) -> LanePool:
        picked = pick(workers, room)
        shown = [self._lane(worker.name, faults) for worker in picked.all_shown]
        if picked.others:
            name = f"mean of {len(picked.others)}{' others' if shown else ''}"
            others = [worker.name for worker in picked.others]
            shown.insert(len(picked.busiest), self._mean(name, others, faults))
        return LanePool(_title(workers[0].pool, len(workers), picked), shown)

    def _lane(self, worker: str, faults: Sequence[Happened]) -> Lane:
        own = [each for each in faults if each.worker == worker]
        marks = [Mark(each.at_s, each.what) for each in own]
        return Lane(worker, self._busy_s(worker), marks, _dead(own))

    def _mean(self, name: str, workers: Sequence[str], faults: Sequence[Happened]) -> Lane:
        each_s = [self._busy_s(worker) for worker in workers]
        mean_s = {
            kind: [
                sum(busy_s[kind][n] for busy_s in each_s) / len(workers) for n in range(NUM_BINS)
            ]
            for kind in KINDS
        }
        among = set(workers)
        marks = [Mark(each.at_s, str(each)) for each in faults if each.worker in among]
        return Lane(name, mean_s, marks)

    def _busy_s(self, worker: str) -> dict[str, list[float]]:
        return {kind: self._bins.covered_s((worker, kind)) for kind in KINDS}


def lanes_of_each(num_runs: int) -> int:
    """How many lanes each of several runs has on one page."""
    return min(MAX_LANES, _MAX_LANES_IN_ALL // num_runs)


# --- which workers are shown --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picked:
    """Workers of a pool that have a lane of their own, and those that share one."""

    busiest: Sequence[WorkerUse]
    idlest: Sequence[WorkerUse]
    others: Sequence[WorkerUse]

    @property
    def all_shown(self) -> list[WorkerUse]:
        return [*self.busiest, *self.idlest]


def pick(workers: Sequence[WorkerUse], room: int) -> Picked:
    """Those that `room` lanes show: all in their order, or else the ends of their order by busy time."""
    if len(workers) <= room:
        return Picked(workers, (), ())
    if room < _FEWEST_PICKED:
        return Picked((), (), workers)
    ordered = sorted(workers, key=lambda worker: worker.busy_s, reverse=True)
    num_busiest = room // 2
    first_idle = len(workers) - (room - 1 - num_busiest)
    return Picked(ordered[:num_busiest], ordered[first_idle:], ordered[num_busiest:first_idle])


def shared_out(sizes: dict[str, int], room: int) -> dict[str, int]:
    """Lanes for each pool, by name: small pools get what they need, the others equal shares, and each
    gets one."""
    found: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: sizes[name]):
        share = max(1, (room - sum(found.values())) // (len(sizes) - len(found)))
        found[name] = min(sizes[name], share)
    return found


def _title(pool: str, num_workers: int, picked: Picked) -> str:
    if not picked.others:
        return f"{pool}: {num_workers} worker{'s' if num_workers != 1 else ''}"
    if not picked.busiest:
        return f"{pool}: {num_workers} workers, their mean"
    busiest, idlest = _the(picked.busiest, "busiest"), _the(picked.idlest, "idlest")
    return f"{pool}: {busiest} and {idlest} of {num_workers} workers"


def _the(workers: Sequence[WorkerUse], which: str) -> str:
    return f"the {which}" if len(workers) == 1 else f"the {len(workers)} {which}"


def _dead(faults: Sequence[Happened]) -> list[tuple[float, float]]:
    """Between each kill of a worker and its return, if there is one."""
    spans: list[tuple[float, float]] = []
    died_s = None
    for each in faults:
        if each.what == "kill":
            died_s = each.at_s
        elif died_s is not None:
            spans.append((died_s, each.at_s))
            died_s = None
    return spans if died_s is None else [*spans, (died_s, float("inf"))]
