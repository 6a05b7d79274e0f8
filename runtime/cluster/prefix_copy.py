"""A copy of the prefix index in Redis, made and kept in this process from what FOLLOW returns.

The copy is exact at every step for the buckets that were copied so far: they come together with all
events up to the moment they were read. What events say of the others is a part of what they will
hold. Knows how Redis writes events and buckets (redis_scripts.py), not how they get here.
"""

import struct
from collections.abc import Sequence

from mserve.runtime.cluster.block_table import BlockTable

_MASKED = b"\0"
_NUM_BUCKETS = 1 << 16

Event = tuple[bytes, Sequence[bytes]]  # id; op, slot and value, each after its name
Bucket = tuple[bytes, Sequence[bytes]]  # name; slots by field, alternating


class PrefixCopy:
    """`last_id` is the last event's, `next_bucket` the one to copy next, None once it is whole.

    Slots of Redis get other numbers here, since each side sweeps at its own pace.
    """

    def __init__(self, last_id: bytes, names: Sequence[bytes]) -> None:
        """`names` alternates slots and workers, as of the event `last_id`."""
        self.table = BlockTable()
        self.last_id = last_id
        self.next_bucket: int | None = 0
        self._slots: dict[int, int] = {}  # by slot of Redis
        for slot, name in zip(names[::2], names[1::2], strict=True):
            self._enter(slot[0], name)

    def apply(self, events: Sequence[Event]) -> None:
        """Events after the last one, in order."""
        for event_id, (_, op, _, slot, _, value) in events:
            self.last_id = event_id
            if op == b"enter":
                self._enter(slot[0], value)
            elif op == b"leave":
                self.table.leave(self._slots.pop(slot[0]))
            elif op == b"ready":
                self.table.unmask(self._slots[slot[0]])
            elif op == b"stored":
                self.table.add(self._slots[slot[0]], _keys(value))
            else:
                assert op == b"evicted", f"The scripts of the prefix index record no {op!r}."
                self.table.remove(self._slots[slot[0]], _keys(value))

    def add_buckets(self, next_bucket: int, buckets: Sequence[Bucket]) -> None:
        """As of the last event applied."""
        masks: dict[bytes, int] = {}  # many blocks are held by the same workers
        for name, entries in buckets:
            for field, slots in zip(entries[::2], entries[1::2], strict=True):
                mask = masks.get(slots)
                if mask is None:
                    mask = masks[slots] = self._mask(slots)
                if mask:
                    self.table.add_row(int.from_bytes(name + field, "big"), mask)
        self.next_bucket = next_bucket if next_bucket < _NUM_BUCKETS else None

    def _enter(self, slot: int, name: bytes) -> None:
        masked = name.startswith(_MASKED)
        self._slots[slot] = self.table.enter(name.removeprefix(_MASKED).decode(), masked=masked)

    def _mask(self, slots: bytes) -> int:
        """Without those that Redis has yet to sweep."""
        return sum(1 << self._slots[slot] for slot in slots if slot in self._slots)


def _keys(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(packed) // 8}Q", packed)
