"""The prefix index in memory: for one process, for tests and for the simulator.

Decides whose events count, by incarnation and sequence; the blocks lie in a BlockTable. Knows no
tokens and no prompts, only keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mserve.runtime.cluster.block_table import BlockTable
from mserve.runtime.cluster.membership import MAX_WORKERS, BlockEvents
from mserve.runtime.cluster.succession import Succession
from mserve.runtime.errors import NoRoom


@dataclass(slots=True)
class _Holder:
    incarnation: str
    sequence: int
    slot: int


class MemoryPrefixIndex:
    """Implements `PrefixIndex`. What workers leave behind is swept a part with each change.

    In memory there may be more workers than elsewhere.
    """

    def __init__(self, max_workers: int = MAX_WORKERS) -> None:
        self._max_workers = max_workers
        self._table = BlockTable()
        self._holders: dict[str, _Holder] = {}
        self._succession = Succession()

    async def publish(self, worker: str, incarnation: str, events: BlockEvents) -> bool:
        holder = self._holders.get(worker)
        if holder is None or holder.incarnation != incarnation:
            holder = self._newcomer(worker, incarnation, events.sequence)
        if holder is None or events.sequence > holder.sequence + 1:
            return False
        if events.sequence == holder.sequence + 1:
            self._table.remove(holder.slot, events.evicted)
            self._table.add(holder.slot, events.stored)
            holder.sequence = events.sequence
        self._table.sweep()
        return True

    async def resync(
        self, worker: str, incarnation: str, sequence: int, blocks: Sequence[int]
    ) -> None:
        self._succession.admit(worker, incarnation)
        holder = self._holders.get(worker)
        if holder and holder.incarnation == incarnation and holder.sequence > sequence:
            return  # a resync that was overtaken on its way
        self._table.add(self._enrol(worker, incarnation, sequence).slot, blocks)

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        return self._table.lookup(keys)

    async def forget(self, worker: str, incarnation: str | None = None) -> None:
        holder = self._holders.get(worker)
        if holder is not None and incarnation in (None, holder.incarnation):
            self._retire(worker)

    async def close(self) -> None:
        self._table = BlockTable()
        self._holders.clear()

    def _newcomer(self, worker: str, incarnation: str, sequence: int) -> _Holder | None:
        """Its holder if this is the first batch of a new incarnation and there is room."""
        if sequence != 1 or not self._succession.admits(worker, incarnation):
            return None
        try:
            return self._enrol(worker, incarnation, 0)
        except NoRoom:
            return None

    def _enrol(self, worker: str, incarnation: str, sequence: int) -> _Holder:
        self._retire(worker)
        if len(self._holders) == self._max_workers:
            raise index_full(self._max_workers)
        holder = _Holder(incarnation, sequence, self._table.enter(worker))
        self._holders[worker] = holder
        return holder

    def _retire(self, worker: str) -> None:
        holder = self._holders.pop(worker, None)
        if holder is not None:
            self._table.leave(holder.slot)
            self._table.sweep()


def index_full(max_workers: int = MAX_WORKERS) -> NoRoom:
    return NoRoom(f"The prefix index holds {max_workers} workers at most.")
