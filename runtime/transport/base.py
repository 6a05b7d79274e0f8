"""Moves messages with KV payloads between engine processes: the `Transport` seam.

A message is a small header and, optionally, a payload that was written into a staging slot. The
transport owns slots and connections; it knows neither tickets nor pages (worker/tickets.py does).
Sans-async: the engine's loop calls `poll`, and sleeps on `wakeup_fd` when idle.
"""

from dataclasses import dataclass
from typing import Protocol


class Slot(Protocol):
    """A staging buffer for one peer; the caller's until it is sent or released, also after a
    `PeerLost`."""

    @property
    def view(self) -> memoryview:
        """Writable bytes, exactly as many as asked for."""
        ...

    def release(self) -> None:
        """Gives the slot back unsent."""
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message. `payload` (empty if none) is valid until the next `poll`."""

    peer: bytes
    header: bytes
    payload: memoryview


@dataclass(frozen=True, slots=True)
class PeerLost:
    """Nothing more comes from or goes to this peer; all that was under way is void."""

    peer: bytes
    reason: str


TransportEvent = Received | PeerLost


class Transport(Protocol):
    """Per peer, messages arrive whole, once and in the order sent, or the peer is reported lost.

    A peer is named by its `address`. A header is at most `MAX_HEADER_BYTES`, a
    payload at most `MAX_PAYLOAD_BYTES`. No call blocks for longer than the copy of a payload.
    """

    @property
    def address(self) -> bytes:
        """Opaque; what others pass as `peer` to reach this transport."""
        ...

    def stage(self, peer: bytes, num_bytes: int) -> Slot | None:
        """A slot to fill for `peer`, or None while its share of the ring is under way."""
        ...

    def send(self, peer: bytes, header: bytes, slot: Slot | None = None) -> None:
        """Queues a message, connecting first where needed; a lost peer is reported by `poll`.

        Takes `slot` over. After a `PeerLost`, sending to that peer connects anew.
        """
        ...

    def poll(self) -> list[TransportEvent]:
        """Progresses everything under way; returns what arrived. Never blocks."""
        ...

    def wakeup_fd(self) -> int | None:
        """Arms notification: a descriptor that becomes readable when an event is near or a slot
        comes free, or None if there is something to poll right now.

        Arm anew before every sleep, after a `poll`; only `poll` makes the descriptor quiet again.
        """
        ...

    def close(self, peer: bytes | None = None) -> None:
        """Drops one peer, or everything; the other side sees a `PeerLost`, this side none.

        What was under way is void. A slot that the network may still touch comes free later.
        """
        ...


MAX_HEADER_BYTES = 16 << 10
MAX_PAYLOAD_BYTES = 2 << 20
