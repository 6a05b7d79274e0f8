"""Transports that live in one process and one thread: tests, the simulator, a cluster of one.

Same rules as over a network: a payload stays in its sender's slot until the receiver has a slot
for it and copies it there, so back-pressure and slot exhaustion happen as they do for real.
"""

import os
from collections import deque
from dataclasses import dataclass

from mserve.runtime.transport.base import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    PeerLost,
    Received,
    Slot,
    TransportEvent,
)
from mserve.runtime.transport.ring import SlotRing, StagingSlot

NO_PAYLOAD = memoryview(b"")


@dataclass(frozen=True, slots=True)
class _Message:
    header: bytes
    slot: StagingSlot | None  # of the sender's ring


class LoopbackNetwork:
    """The transports that reach each other. Addresses are never given out twice."""

    def __init__(self) -> None:
        self._members: dict[bytes, LoopbackTransport] = {}
        self._num_joined = 0

    def join(self, *, num_slots: int = 32, slots_per_peer: int = 8) -> "LoopbackTransport":
        """A new transport with its own ring for sending and another for receiving."""
        self._num_joined += 1
        address = b"loopback:%d" % self._num_joined
        sending = SlotRing(num_slots, slots_per_peer)
        receiving = SlotRing(num_slots, slots_per_peer)
        self._members[address] = LoopbackTransport(self, address, sending, receiving)
        return self._members[address]

    def kill(self, address: bytes) -> None:
        """Ends a transport as SIGKILL ends a process: its peers see a `PeerLost`."""
        self._members[address].leave("the peer died")

    def find(self, address: bytes) -> "LoopbackTransport | None":
        return self._members.get(address)

    def remove(self, address: bytes) -> None:
        self._members.pop(address, None)


class LoopbackTransport:
    """Implements `Transport`; made by `LoopbackNetwork.join`."""

    def __init__(
        self, network: LoopbackNetwork, address: bytes, sending: SlotRing, receiving: SlotRing
    ) -> None:
        self._network = network
        self._address = address
        self._sending = sending
        self._receiving = receiving
        self._inboxes: dict[bytes, deque[_Message]] = {}  # one per connected peer
        self._lost: list[PeerLost] = []
        self._delivered: list[StagingSlot] = []  # read by the caller until the next poll
        self._wakeup: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._signalled = False

    @property
    def address(self) -> bytes:
        return self._address

    @property
    def num_slots_held(self) -> int:
        """Both directions; 0 when nothing is staged, under way or being read."""
        return self._sending.num_held + self._receiving.num_held

    def stage(self, peer: bytes, num_bytes: int) -> StagingSlot | None:
        return self._sending.take(peer, num_bytes)

    def send(self, peer: bytes, header: bytes, slot: Slot | None = None) -> None:
        assert len(header) <= MAX_HEADER_BYTES, "a header is at most 16 KiB"
        assert self._wakeup is not None, "a closed transport sends nothing"
        if slot is not None:
            assert isinstance(slot, StagingSlot), "slots come from `stage`"
            slot.take_over(peer)
        receiver = self._network.find(peer)
        if receiver is None:
            if isinstance(slot, StagingSlot):
                slot.reclaim()
            self._lose(peer, "no such peer")
            return
        self._inboxes.setdefault(peer, deque())
        receiver.accept(self._address, _Message(bytes(header), slot))

    def poll(self) -> list[TransportEvent]:
        self._quieten()
        for slot in self._delivered:
            slot.reclaim()
        self._delivered.clear()
        # Losing a peer empties its inbox, so whatever is in one came after the loss.
        events: list[TransportEvent] = [*self._lost]
        self._lost.clear()
        copied_bytes = 0
        for peer, inbox in self._inboxes.items():
            copied_bytes += self._deliver(peer, inbox, MAX_PAYLOAD_BYTES - copied_bytes, events)
        self._rotate()
        return events

    def wakeup_fd(self) -> int | None:
        assert self._wakeup is not None, "a closed transport wakes nobody"
        if self._lost or any(self._inboxes.values()):
            return None
        return self._wakeup

    def close(self, peer: bytes | None = None) -> None:
        if peer is None:
            self.leave("the peer closed its transport")
            return
        self._lost = [lost for lost in self._lost if lost.peer != peer]
        self._disconnect(peer, "the peer closed the connection")

    def leave(self, reason: str) -> None:
        """Disconnects from everyone and ends; a second call does nothing."""
        if self._wakeup is None:
            return
        self._network.remove(self._address)
        for peer in list(self._inboxes):
            self._disconnect(peer, reason)
        self._lost.clear()
        os.close(self._wakeup)
        self._wakeup = None

    def accept(self, sender: bytes, message: _Message) -> None:
        """A connected sender's message; it waits here for this transport's next poll."""
        self._inboxes.setdefault(sender, deque()).append(message)
        self.signal()

    def drop(self, peer: bytes, reason: str) -> None:
        """`peer` is gone: voids what it sent and reports it."""
        if peer in self._inboxes:
            self._void_inbox(peer)
            self._lose(peer, reason)

    def signal(self) -> None:
        """Wakes whoever sleeps on `wakeup_fd`: an event, or a slot of ours came free."""
        if self._wakeup is not None and not self._signalled:
            os.eventfd_write(self._wakeup, 1)
            self._signalled = True

    def _quieten(self) -> None:
        if self._signalled and self._wakeup is not None:
            os.eventfd_read(self._wakeup)
            self._signalled = False

    def _deliver(
        self, peer: bytes, inbox: deque[_Message], budget: int, events: list[TransportEvent]
    ) -> int:
        """Delivers in order while payloads fit into free slots and `budget`; returns its use."""
        copied_bytes = 0
        while inbox:
            payload = NO_PAYLOAD
            sent = inbox[0].slot
            if sent is not None:
                size = len(sent.view)
                slot = self._receiving.take(peer, size) if copied_bytes + size <= budget else None
                if slot is None:
                    break
                slot.view[:] = sent.view
                self._delivered.append(slot)
                payload = slot.view.toreadonly()
                copied_bytes += size
                self._return_to_sender(peer, sent)
            events.append(Received(peer, inbox.popleft().header, payload))
        return copied_bytes

    def _rotate(self) -> None:
        """The first peer goes last, so that none starves for the others' payloads."""
        if self._inboxes:
            first = next(iter(self._inboxes))
            self._inboxes[first] = self._inboxes.pop(first)

    def _disconnect(self, peer: bytes, reason: str) -> None:
        if peer not in self._inboxes:
            return
        self._void_inbox(peer)
        other = self._network.find(peer)
        if other is not None:
            other.drop(self._address, reason)

    def _void_inbox(self, peer: bytes) -> None:
        for message in self._inboxes.pop(peer):
            if message.slot is not None:
                self._return_to_sender(peer, message.slot)

    def _return_to_sender(self, peer: bytes, slot: StagingSlot) -> None:
        slot.reclaim()
        sender = self._network.find(peer)
        if sender is not None:
            sender.signal()

    def _lose(self, peer: bytes, reason: str) -> None:
        self._lost.append(PeerLost(peer, reason))
        self.signal()
