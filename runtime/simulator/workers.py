"""All workers of a simulated cluster, by name and by incarnation, from their start to their death.

Knows neither the router nor when somebody dies: outages.py tells it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.messages import Frame, PlanCall
from mserve.runtime.simulator.priced_worker import PricedWorker, Surroundings, WorkerSpec
from mserve.runtime.simulator.results import WorkerUse, use_of

NAME_POLL_S = 0.1  # of the registry, by a worker whose predecessor is still known there


class Workers:
    """Keeps the dead ones: connections to them may be open, and they have worked."""

    def __init__(self, specs: Sequence[WorkerSpec], around: Surroundings) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._around = around
        self._incarnations: dict[str, PricedWorker] = {}
        self._latest: dict[str, PricedWorker] = {}  # by name
        self._returning: set[str] = set()

    async def start(self) -> None:
        """Returns when the registry knows all of them."""
        for name in self._specs:
            await self._join(name)

    def kill(self, name: str) -> bool:
        """False if it is dead already."""
        worker = self._latest[name]
        was_alive = not worker.is_dead
        worker.kill()
        return was_alive

    async def revive(self, name: str) -> bool:
        """Returns when a new, empty incarnation has joined: as a real one, it waits until no earlier
        one is known any more. False if it lives or is coming back already."""
        if name in self._returning or not self._latest[name].is_dead:
            return False
        self._returning.add(name)
        try:
            while await self._is_known(name):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(NAME_POLL_S)
            await self._join(name)
        finally:
            self._returning.discard(name)
        return True

    def execute(self, info: WorkerInfo, call: PlanCall) -> AsyncGenerator[Frame, None]:
        """What the router's client does."""
        return self._incarnations[info.incarnation].execute(call)

    # --- the end -------------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """What living workers still hold though nothing may be under way."""
        return [what for worker in self._living() for what in worker.leftovers()]

    def check_integrity(self) -> None:
        """Raises AssertionError unless every page of every living worker is accounted for."""
        for worker in self._living():
            worker.engine.check_integrity()

    def uses(self) -> list[WorkerUse]:
        """One for each name: what all of its incarnations did."""
        uses = dict.fromkeys(self._specs, WorkerUse())
        for worker in self._incarnations.values():
            uses[worker.spec.name] += use_of(worker)
        return list(uses.values())

    # --- inside --------------------------------------------------------------------------------

    def _living(self) -> list[PricedWorker]:
        return [worker for worker in self._latest.values() if not worker.is_dead]

    async def _join(self, name: str) -> None:
        number = len(self._incarnations) + 1
        worker = PricedWorker(self._specs[name], number, self._around)
        self._incarnations[worker.info.incarnation] = self._latest[name] = worker
        await worker.join()

    async def _is_known(self, name: str) -> bool:
        members = await self._around.registry.members()
        return any(member.info.name == name for member in members)
