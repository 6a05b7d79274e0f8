"""Slots: shares, reuse, and the stamp that tells a reused slot from the one that was sent."""

import ctypes

import pytest

from mserve.runtime.transport.ring import HUGE_PAGE_BYTES, SlotRing, StagingSlot, huge_pages


def address_of(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def take(ring: SlotRing, peer: bytes, num_bytes: int) -> StagingSlot:
    slot = ring.take(peer, num_bytes)
    assert slot is not None
    return slot


def test_buffers_are_allocated_when_needed_and_reused() -> None:
    sizes: list[int] = []

    def allocate(num_bytes: int) -> memoryview:
        sizes.append(num_bytes)
        return memoryview(bytearray(num_bytes))

    ring = SlotRing(4, 2, allocate=allocate, slot_bytes=100)
    assert not sizes
    for _ in range(3):
        first, second = take(ring, b"a", 100), take(ring, b"a", 1)
        assert ring.num_held == 2
        first.release()
        second.release()
    assert len(sizes) == 2
    assert ring.num_held == 0


def test_a_slot_that_serves_another_message_bears_its_number_no_more() -> None:
    ring = SlotRing(1, 1, slot_bytes=100)
    old = take(ring, b"a", 50)
    number = old.number
    old.take_over(b"a")
    assert old.bears(number)
    still_reading = old.frame
    old.reclaim()
    new = take(ring, b"b", 100)
    assert new.number != number
    assert bytes(still_reading[50:]) == bytes(8), "gone before the new holder writes a byte"


@pytest.mark.parametrize("num_bytes", [1, 4096, HUGE_PAGE_BYTES, 2 * HUGE_PAGE_BYTES + 8])
def test_buffers_begin_where_a_huge_page_does_and_are_as_long_as_asked(num_bytes: int) -> None:
    buffers = [huge_pages(num_bytes) for _ in range(3)]
    for number, buffer in enumerate(buffers):
        assert address_of(buffer) % HUGE_PAGE_BYTES == 0
        buffer[:] = bytes([number]) * num_bytes
    assert [buffer[-1] for buffer in buffers] == [0, 1, 2]
    assert [len(buffer) for buffer in buffers] == [num_bytes] * 3


def test_a_slot_is_given_back_once() -> None:
    ring = SlotRing(1, 1)
    slot = take(ring, b"a", 1)
    slot.release()
    with pytest.raises(AssertionError, match="once"):
        slot.release()
    sent = take(ring, b"a", 1)
    sent.take_over(b"a")
    with pytest.raises(AssertionError, match="belongs to its transport"):
        sent.release()
