"""Slots: shares, reuse, and the stamp that tells a reused slot from the one that was sent."""

import pytest

from mserve.runtime.transport.ring import SlotRing, StagingSlot


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
