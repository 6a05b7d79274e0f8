"""The prefix index in memory: for one process, for tests and for the simulator.

Per block one integer whose bit s says that the worker in slot s has it; a lookup is a chain of
bitwise ands. Knows no tokens and no prompts, only keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mserve.runtime.cluster.membership import MAX_WORKERS, BlockEvents
from mserve.runtime.cluster.succession import Succession
from mserve.runtime.errors import NoRoom


@dataclass(slots=True)
class _Holder:
    incarnation: str
    sequence: int
    slot: int


class MemoryPrefixIndex:
    """Implements `PrefixIndex`. Sweeping is immediate, so a slot is free as soon as it is left."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}
        self._holders: dict[str, _Holder] = {}
        self._names: dict[int, str] = {}  # by slot
        self._succession = Succession()

    async def publish(self, worker: str, incarnation: str, events: BlockEvents) -> bool:
        holder = self._holders.get(worker)
        if holder is None or holder.incarnation != incarnation:
            holder = self._newcomer(worker, incarnation, events.sequence)
        if holder is None or events.sequence > holder.sequence + 1:
            return False
        if events.sequence == holder.sequence + 1:
            self._remove(holder.slot, events.evicted)
            self._add(holder.slot, events.stored)
            holder.sequence = events.sequence
        return True

    async def resync(
        self, worker: str, incarnation: str, sequence: int, blocks: Sequence[int]
    ) -> None:
        self._succession.admit(worker, incarnation)
        holder = self._holders.get(worker)
        if holder and holder.incarnation == incarnation and holder.sequence > sequence:
            return  # a resync that was overtaken on its way
        self._add(self._enrol(worker, incarnation, sequence).slot, blocks)

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        matched: dict[str, int] = {}
        alive = self._masks.get(keys[0], 0) if keys else 0
        for count, key in enumerate(keys):
            still = alive & self._masks.get(key, 0)
            if still != alive:
                self._name(alive & ~still, count, matched)
                alive = still
            if not alive:
                break
        self._name(alive, len(keys), matched)
        return matched

    async def forget(self, worker: str, incarnation: str | None = None) -> None:
        holder = self._holders.get(worker)
        if holder is None or incarnation not in (None, holder.incarnation):
            return
        del self._holders[worker], self._names[holder.slot]
        self._remove(holder.slot, tuple(self._masks))

    async def close(self) -> None:
        self._masks.clear()
        self._holders.clear()
        self._names.clear()

    def _newcomer(self, worker: str, incarnation: str, sequence: int) -> _Holder | None:
        """Its holder if this is the first batch of a new incarnation and there is room."""
        if sequence != 1 or not self._succession.admits(worker, incarnation):
            return None
        try:
            return self._enrol(worker, incarnation, 0)
        except NoRoom:
            return None

    def _enrol(self, worker: str, incarnation: str, sequence: int) -> _Holder:
        old = self._holders.pop(worker, None)
        if old is not None:
            del self._names[old.slot]
            self._remove(old.slot, tuple(self._masks))
        slot = next((slot for slot in range(MAX_WORKERS) if slot not in self._names), None)
        if slot is None:
            raise index_full()
        self._names[slot] = worker
        self._holders[worker] = holder = _Holder(incarnation, sequence, slot)
        return holder

    def _add(self, slot: int, keys: Sequence[int]) -> None:
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | (1 << slot)

    def _remove(self, slot: int, keys: Sequence[int]) -> None:
        for key in keys:
            left = self._masks.get(key, 0) & ~(1 << slot)
            if left:
                self._masks[key] = left
            else:
                self._masks.pop(key, None)

    def _name(self, slots: int, count: int, matched: dict[str, int]) -> None:
        while slots:
            lowest = slots & -slots
            matched[self._names[lowest.bit_length() - 1]] = count
            slots ^= lowest


def index_full() -> NoRoom:
    return NoRoom(f"The prefix index holds {MAX_WORKERS} workers at most.")
