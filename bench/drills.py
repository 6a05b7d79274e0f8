"""Chaos drills: a whole cluster in one process on a virtual clock, disturbed; nothing may be lost.

    python bench/drills.py [--seeds N] [--first N] [--strategy NAME] [--jobs N] [--seed N]

Router and workers are the real parts, on a simulated network with a model of hashes. After each drill
every finished answer must be what the model says when undisturbed, every broken one a prefix of it,
every error a typed one that may be tried again, and every page, ticket, send and reservation free.
`--seed N` runs one drill and prints what happened. Reports drills per minute.
"""

import argparse
import asyncio
import gc
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from drill_scenario import COPYING, SHORTER, Arrival, Fault, Scenario, draw
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.dsl.check import check_text
from mserve.runtime.errors import (
    EngineFailure,
    Gone,
    NoRoom,
    RequestError,
    Unavailable,
    WorkerLost,
)
from mserve.runtime.messages import Finish
from mserve.runtime.simulator.cluster import VirtualCluster
from mserve.runtime.simulator.loop import SimulationError, VirtualLoop
from mserve.runtime.simulator.model import reference

STRATEGIES = Path(__file__).parents[1] / "strategies"
LIMIT_S = 900.0  # of virtual time, for all requests of a drill to end
CALM_S = 25.0  # the same where nothing goes wrong: nobody may wait for a time-out (30 s)
REST_S = 90.0  # of virtual time, for everything to be given back after that
PASSING = (WorkerLost, Unavailable, NoRoom, Gone)  # what a disturbed request may end with


class DrillFailed(AssertionError):
    """Says which seed, what is wrong, and what happened last."""


@dataclass
class Client:
    """A sink that keeps what it reads, and how its request ended."""

    arrival: Arrival
    text: str = ""
    finished: Finish | None = None
    ended: str = ""  # "done", "left", or the kind of its error
    error: RequestError | None = None
    num_plans: int = 0

    def placed(self, plan_id: str, route: str, version: int) -> None:
        self.num_plans += 1

    async def tokens(self, payload: bytes) -> None:
        self.text += payload.decode()
        if self.arrival.read_s:
            await asyncio.sleep(self.arrival.read_s)

    async def finish(self, finish: Finish) -> None:
        self.finished = finish


@dataclass
class Report:
    """What a drill came to."""

    seed: int
    digest: str
    endings: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    failure: str = ""


@cache
def strategy_of(name: str) -> CompiledStrategy:
    text = COPYING if name == "copying" else (STRATEGIES / f"{name}.mserve").read_text()
    if name == "balanced":
        text = text.replace("< 256", "< 8")  # so that prompts as short as ours are split
    strategy = compile_strategy(check_text(text, f"{name}.mserve"))
    for param, value in SHORTER.get(name, {}).items():
        strategy.set_param(param, value)
    return strategy


class Drill:
    """One scenario being played."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._rng = Random(f"disturbances of {scenario.seed}")
        self._clients = [Client(arrival) for arrival in scenario.arrivals]
        self._poisoned = {f"{c.arrival.request.id}" for c in self._clients if c.arrival.is_poison}
        self._cluster: VirtualCluster | None = None
        self._loop = VirtualLoop()

    def play(self) -> Report:
        """Raises DrillFailed."""
        try:
            self._loop.run(self._main())
        except (SimulationError, AssertionError, ExceptionGroup) as error:
            raise DrillFailed(self._describe(error)) from error
        finally:
            self._loop.close()
        return Report(
            self._scenario.seed,
            self.cluster.journal.digest,
            Counter(client.ended for client in self._clients),
            self._loop.time(),
        )

    @property
    def cluster(self) -> VirtualCluster:
        assert self._cluster is not None, "the drill has begun"
        return self._cluster

    async def _main(self) -> None:
        scenario = self._scenario
        self._cluster = VirtualCluster(
            strategy_of(scenario.strategy),
            scenario.specs,
            self._loop,
            latency=lambda: scenario.latency_s * self._rng.uniform(0.5, 1.5),
            bytes_per_s=scenario.bytes_per_s,
            transfer_latency_s=scenario.transfer_latency_s,
            disturb=self._disturb,
            poisons=self._poisons,
        )
        async with self._cluster.running():
            await self._all_ended()
            await self._all_free()
            self._cluster.check_integrity()
        for client in self._clients:
            self._check(client)

    async def _all_ended(self) -> None:
        """Every request has ended, and every fault is over."""
        limit_s = CALM_S if self._scenario.is_calm else LIMIT_S
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                for client in self._clients:
                    group.create_task(self._ask(client))
                for fault in self._scenario.faults:
                    group.create_task(self._suffer(fault))
        except TimeoutError:
            waiting = [c.arrival.request.id for c in self._clients if not c.ended]
            raise AssertionError(f"Requests {waiting} have not ended in {limit_s:g} s.") from None

    async def _all_free(self) -> None:
        deadline_s = self._loop.time() + REST_S
        while leftovers := self.cluster.leftovers():
            assert self._loop.time() < deadline_s, f"This is never given back: {leftovers}"
            await asyncio.sleep(0.1)

    # --- clients -------------------------------------------------------------------------------

    async def _ask(self, client: Client) -> None:
        arrival = client.arrival
        await asyncio.sleep(arrival.at_s)
        self.cluster.note("request", arrival.request.id, len(arrival.prompt))
        leaving = asyncio.timeout(arrival.cancel_s)
        try:
            async with leaving:
                await self.cluster.execute(arrival.request, client)
            client.ended = "done"
        except TimeoutError:
            client.ended = "left"
        except RequestError as error:
            client.ended, client.error = type(error).__name__, error
        self.cluster.note("ended", arrival.request.id, client.ended, client.num_plans)

    def _check(self, client: Client) -> None:
        name, sampling = client.arrival.request.id, client.arrival.request.sampling
        tokens = reference(client.arrival.prompt, sampling.max_tokens)
        expected, is_stopped = _stopped_text(tokens, sampling.stop, sampling.stop_token_ids)
        if client.ended == "done":
            assert client.text == expected, f"{name} was told {client.text!r}, not {expected!r}"
            assert client.finished is not None, f"{name} is done and has no end"
            reason = "stop" if is_stopped else "length"
            assert client.finished.reason == reason, f"{name} ended for {client.finished}"
        else:
            assert expected.startswith(client.text), (
                f"{name} was told {client.text!r} before it failed"
            )
        if client.error is not None:
            self._check_error(client, client.error)

    def _check_error(self, client: Client, error: RequestError) -> None:
        name = client.arrival.request.id
        is_disturbed = client.arrival.is_poison or not self._scenario.is_calm
        is_passing = is_disturbed and isinstance(error, PASSING)  # peers of a poisoned plan give up
        is_poison = client.arrival.is_poison and isinstance(error, EngineFailure)
        assert is_poison or is_passing, f"{name} ended with {type(error).__name__}: {error}"

    # --- what goes wrong -----------------------------------------------------------------------

    async def _suffer(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        cluster = self.cluster
        if fault.kind == "store":
            await self._lose_store(fault)
        elif cluster.workers[fault.worker].is_dead or cluster.workers[fault.worker].is_frozen:
            return
        elif fault.kind == "kill":
            cluster.kill(fault.worker, lose_in_flight=fault.lose_in_flight)
            await asyncio.sleep(fault.duration_s)
            await cluster.start(fault.worker)
        else:
            worker = cluster.freeze(fault.worker, only_engine=fault.kind == "freeze_engine")
            await asyncio.sleep(fault.duration_s)
            cluster.note("thaw", worker.info.incarnation)
            worker.thaw()

    async def _lose_store(self, fault: Fault) -> None:
        self.cluster.note("store", "away")
        self.cluster.store.is_away = True
        await asyncio.sleep(fault.duration_s)
        self.cluster.note("store", "back")
        self.cluster.store.is_away = False

    def _disturb(self, header: bytes) -> tuple[float, ...]:
        noise, rng = self._scenario.noise, self._rng
        if not noise:
            return (0.0,)
        if rng.random() < noise.lost:
            return ()
        delay_s = rng.expovariate(4.0) if rng.random() < noise.delayed else 0.0
        if rng.random() < noise.repeated:
            return (delay_s, rng.choice((0.0, rng.uniform(0.0, 0.1), rng.uniform(0.0, 5.0))))
        return (delay_s,)

    def _poisons(self, key: str) -> bool:
        record = self.cluster.plans.get(key.partition("/")[0])
        return record is not None and record.request_id in self._poisoned

    def _describe(self, error: BaseException) -> str:
        scenario = self._scenario
        last = [] if self._cluster is None else self._cluster.journal.last(60)
        cause = f" {error.__cause__!r}" if error.__cause__ is not None else ""
        size = f"{len(scenario.specs)} workers, {len(scenario.arrivals)} requests"
        where = f"seed {scenario.seed}, {scenario.strategy}, {size}, at {self._loop.time():.3f} s:"
        return "\n".join([*last, where, f"{type(error).__name__}: {error}{cause}"])


def _stopped_text(
    tokens: list[int], stops: tuple[str, ...], stop_ids: tuple[int, ...]
) -> tuple[str, bool]:
    """The text of an answer up to what stops it, and whether something does."""
    text = ""
    for token in tokens:
        if token in stop_ids:
            return text, True
        text += f"{token} "
        ends = [at for stop in stops if (at := text.find(stop)) >= 0]
        if ends:
            return text[: min(ends)], True
    return text, False


def play(seed: int, strategy: str = "") -> Report:
    """Plays the drill of a seed; its failure is in the report."""
    try:
        return Drill(draw(seed, strategy)).play()
    except DrillFailed as failure:
        return Report(seed, "", failure=str(failure))


def _play_many(first: int, last: int, strategy: str) -> list[Report]:
    logging.disable(logging.ERROR)  # that workers are lost is what drills are about
    gc.freeze()
    return [play(seed, strategy) for seed in range(first, last)]


def main() -> int:
    options = _parse()
    if options.seed is not None:
        report = play(options.seed, options.strategy)
        print(report.failure or report)
        return bool(report.failure)
    began_s = time.perf_counter()
    reports = _play_all(options)
    wall_s = time.perf_counter() - began_s
    failures = [report for report in reports if report.failure]
    endings = sum((report.endings for report in reports), Counter())
    for report in failures[:20]:
        print(report.failure.splitlines()[-2], report.failure.splitlines()[-1][:400], sep="\n  ")
    print(f"{len(reports)} drills in {wall_s:.1f} s: {60 * len(reports) / wall_s:.0f} a minute")
    print(f"{len(failures)} failed; requests: {dict(endings.most_common())}")
    return bool(failures)


def _play_all(options: argparse.Namespace) -> list[Report]:
    step = 25
    begins = range(options.first, options.first + options.seeds, step)
    ends = [min(begin + step, options.first + options.seeds) for begin in begins]
    if options.jobs == 1:
        parts = [_play_many(b, e, options.strategy) for b, e in zip(begins, ends, strict=True)]
        return [report for part in parts for report in part]
    with ProcessPoolExecutor(options.jobs) as pool:
        names = [options.strategy] * len(begins)
        return [report for part in pool.map(_play_many, begins, ends, names) for report in part]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--strategy", default="")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    with suppress(BrokenPipeError):
        return parser.parse_args()
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
