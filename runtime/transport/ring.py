"""Staging slots: the only memory that a network may touch while a message is under way.

Owns a bounded set of payload buffers and who holds them, in total and per peer, so that one slow
peer cannot take every slot. It knows neither connections nor requests: its owner gives a slot
back once nothing touches it any more.

A slot ends in a stamp of its own. A receiver that was frozen while it read a sender's slot may
read on after that slot serves another message: it reads the stamp last, and finds it gone.
"""

import ctypes
import mmap
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from mserve.runtime.transport.base import MAX_PAYLOAD_BYTES

STAMP: Final = struct.Struct("<Q")

BufferAllocator = Callable[[int], memoryview]
"""Writable bytes, as many as asked for, at an address that never changes."""


HUGE_PAGE_BYTES: Final = 2 << 20


def huge_pages(num_bytes: int) -> memoryview:
    """Private memory from a huge page's boundary on, in huge pages where the system has them (not
    where `transparent_hugepage` is `never`); a page is committed at its first touch.

    A kernel that copies between two processes pins the sender's memory page by page, which takes as
    long as the copy itself where pages have 4 KiB.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    area = mmap.mmap(-1, num_bytes + HUGE_PAGE_BYTES, flags=flags)
    whole = memoryview(area)
    begin = -ctypes.addressof(ctypes.c_char.from_buffer(whole)) % HUGE_PAGE_BYTES
    num_huge_bytes = num_bytes - num_bytes % HUGE_PAGE_BYTES
    if num_huge_bytes:
        with suppress(OSError):  # a kernel without huge pages: as it was
            area.madvise(mmap.MADV_HUGEPAGE, begin, num_huge_bytes)
    return whole[begin : begin + num_bytes]


class StagingSlot:
    """One buffer of a ring, held for `peer`. `view` is exactly as long as was asked for.

    What travels is `frame`: the view and the stamp behind it, `number` in a slot that was sent.
    """

    __slots__ = ("_buffer", "_ring", "_sent", "frame", "number", "peer", "view")

    def __init__(
        self, ring: "SlotRing", peer: bytes, buffer: memoryview, num_bytes: int, number: int
    ) -> None:
        self.peer = peer
        self.number = number
        self.view = buffer[:num_bytes]
        self.frame = buffer[: num_bytes + STAMP.size]
        self._buffer: memoryview | None = buffer
        self._ring = ring
        self._sent = False

    def release(self) -> None:
        """Gives back a slot that was not sent."""
        assert not self._sent, "a sent slot belongs to its transport"
        self._ring.give_back(self)

    def take_over(self, peer: bytes) -> None:
        """Stamps the slot as sent: from here on only its transport gives it back."""
        assert self._buffer is not None, "a released slot cannot be sent"
        assert not self._sent, "a slot is sent once"
        assert self.peer == peer, "a slot goes to the peer it was staged for"
        self._sent = True
        STAMP.pack_into(self.frame, len(self.view), self.number)

    def bears(self, number: int) -> bool:
        """Whether the bytes before the stamp are those of the sender's slot of this number."""
        return bool(STAMP.unpack_from(self.frame, len(self.view))[0] == number)

    def reclaim(self) -> None:
        """For its transport: nothing touches the bytes any more."""
        self._ring.give_back(self)

    def vacate(self) -> memoryview:
        """The buffer, for the ring to lend again, without a stamp."""
        buffer, self._buffer = self._buffer, None
        assert buffer is not None, "a slot is given back once"
        STAMP.pack_into(buffer, len(self.view), 0)
        return buffer


class SlotRing:
    """At most `num_slots` buffers, at most `slots_per_peer` of them held for one peer.

    Buffers are allocated when first needed and reused, the most recently used first.
    """

    def __init__(
        self,
        num_slots: int,
        slots_per_peer: int,
        *,
        allocate: BufferAllocator = huge_pages,
        slot_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        assert 0 < slots_per_peer <= num_slots, "a peer's share is at least one slot of the ring"
        self._num_slots = num_slots
        self._slots_per_peer = slots_per_peer
        self._allocate = allocate
        self._slot_bytes = slot_bytes
        self._num_allocated = 0
        self._num_taken = 0
        self._vacant: list[memoryview] = []
        self._held: Counter[bytes] = Counter()

    @property
    def num_held(self) -> int:
        """Slots held by anyone, in total."""
        return self._num_allocated - len(self._vacant)

    def has_room(self, peer: bytes) -> bool:
        """Whether `take` would succeed for this peer."""
        return self.num_held < self._num_slots and self._held[peer] < self._slots_per_peer

    def take(self, peer: bytes, num_bytes: int) -> StagingSlot | None:
        """A slot of `num_bytes` for `peer`, or None while its share or the ring is exhausted."""
        assert 0 < num_bytes <= self._slot_bytes, "a payload fills at most one slot"
        if not self.has_room(peer):
            return None
        if self._vacant:
            buffer = self._vacant.pop()
        else:
            buffer = self._allocate(self._slot_bytes + STAMP.size)
            self._num_allocated += 1
        self._held[peer] += 1
        self._num_taken += 1
        return StagingSlot(self, peer, buffer, num_bytes, self._num_taken)

    def give_back(self, slot: StagingSlot) -> None:
        """Ends the slot's life; nothing may touch its bytes any more."""
        self._vacant.append(slot.vacate())
        self._held[slot.peer] -= 1
        if not self._held[slot.peer]:
            del self._held[slot.peer]
