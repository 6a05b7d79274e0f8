"""Which worker has which blocks, in one process: per block one integer, whose bit s is slot s.

A lookup is a chain of bitwise ands. Rows lie in many small dicts, so that neither growing nor
sweeping them stops the process for long. Knows no tokens, no incarnations and no Redis.
"""

from collections.abc import Iterable, Iterator, Sequence

_NUM_SHARDS = 256  # a million blocks are then 4,000 in each: below a millisecond to sweep
_SHARD = _NUM_SHARDS - 1


class BlockTable:
    """Slots are numbered from 0. A worker's slot may be masked: it then collects blocks that no
    lookup sees. A slot that was left is free again after its sweep, which `sweep` does in parts."""

    def __init__(self) -> None:
        self._shards: list[dict[int, int]] = [{} for _ in range(_NUM_SHARDS)]
        self._names: list[str] = []  # by slot; of free ones the last worker's
        self._visible = 0  # bits of the slots that are named and not masked
        self._free = -1  # bits of the slots that no row mentions and nobody has
        self._left = 0  # bits of the slots that wait for a sweep to begin
        self._sweeping = 0  # bits of the slots that the present sweep clears
        self._next_shard = 0  # of the present sweep

    @property
    def num_blocks(self) -> int:
        return sum(map(len, self._shards))

    def enter(self, worker: str, *, masked: bool = False) -> int:
        """A slot of its own, without blocks."""
        bit = self._free & -self._free
        slot = bit.bit_length() - 1
        self._free &= ~bit
        self._names[slot : slot + 1] = [worker]
        if not masked:
            self._visible |= bit
        return slot

    def unmask(self, slot: int) -> None:
        self._visible |= 1 << slot

    def leave(self, slot: int) -> None:
        """Its blocks are not seen from now on."""
        self._visible &= ~(1 << slot)
        self._left |= 1 << slot

    def add(self, slot: int, keys: Iterable[int]) -> None:
        shards, bit = self._shards, 1 << slot
        for key in keys:
            shard = shards[key & _SHARD]
            shard[key] = shard.get(key, 0) | bit

    def add_row(self, key: int, slots: int) -> None:
        """One block of all the workers whose bits are in `slots`."""
        shard = self._shards[key & _SHARD]
        shard[key] = shard.get(key, 0) | slots

    def remove(self, slot: int, keys: Iterable[int]) -> None:
        shards, others = self._shards, ~(1 << slot)
        for key in keys:
            shard = shards[key & _SHARD]
            _put(shard, key, shard.get(key, 0) & others)

    def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        """For each worker that has the first of `keys`, how many it has without a gap."""
        if not keys:
            return {}
        shards, matched = self._shards, dict[str, int]()
        alive = self._visible & shards[keys[0] & _SHARD].get(keys[0], 0)
        for count, key in enumerate(keys):
            still = alive & shards[key & _SHARD].get(key, 0)
            if still != alive:
                self._name(alive ^ still, count, matched)
                alive = still
                if not alive:
                    return matched
        self._name(alive, len(keys), matched)
        return matched

    def sweep(self, num_shards: int = 1) -> bool:
        """Visits at most so many of the 256 parts; whether there is more to sweep."""
        for _ in range(num_shards):
            if not self._sweeping:
                self._sweeping, self._left = self._left, 0
            if not self._sweeping:
                return False
            self._sweep_shard()
        return bool(self._sweeping or self._left)

    def dismantle(self) -> Iterator[None]:
        """Gives its memory back in short steps; no use can be made of it any more."""
        while self._shards:
            self._shards.pop()
            yield

    def _sweep_shard(self) -> None:
        shard, gone = self._shards[self._next_shard], self._sweeping
        for key, row in [(key, row) for key, row in shard.items() if row & gone]:
            _put(shard, key, row & ~gone)
        self._next_shard = (self._next_shard + 1) % _NUM_SHARDS
        if self._next_shard == 0:
            self._free |= gone
            self._sweeping = 0

    def _name(self, slots: int, count: int, matched: dict[str, int]) -> None:
        names = self._names
        while slots:
            slot = slots.bit_length() - 1
            matched[names[slot]] = count
            slots ^= 1 << slot


def _put(shard: dict[int, int], key: int, row: int) -> None:
    if row:
        shard[key] = row
    else:
        shard.pop(key, None)
