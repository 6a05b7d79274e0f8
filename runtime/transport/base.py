"""Moves messages with KV payloads between engine processes: the `Transport` seam.

A message is a small header and, optionally, a payload that was written into a staging slot. The
transport owns slots and connections; it knows neither tickets nor pages (worker/tickets.py does).
Sans-async: the engine's loop calls `poll`, and sleeps on `wakeup_fd` when idle.
"""

from dataclasses import dataclass
from typing import Protocol


class Slot(Protocol):
    """A staging buffer granted to the caller until it is sent or dropped."""

    @property
    def view(self) -> memoryview:
        """Writable bytes, exactly as many as asked for."""
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

    A peer is named by its `address`. A header is at most 16 KiB; a payload at most
    `MAX_PAYLOAD_BYTES`. No call blocks for longer than a copy of one payload takes.
    """

    @property
    def address(self) -> bytes:
        """Opaque; what others pass as `peer` to reach this transport."""
        ...

    def stage(self, peer: bytes, num_bytes: int) -> Slot | None:
        """A slot to fill for `peer`, or None while its share of the ring is under way."""
        ...

    def send(self, peer: bytes, header: bytes, slot: Slot | None = None) -> None:
        """Queues a message, connecting first where needed; a lost peer is reported by `poll`."""
        ...

    def poll(self) -> list[TransportEvent]:
        """Progresses everything under way; returns what arrived. Never blocks."""
        ...

    def wakeup_fd(self) -> int | None:
        """Arms notification: a descriptor that becomes readable on the next event, or None if
        there is something to poll right now."""
        ...

    def close(self, peer: bytes | None = None) -> None:
        """Drops one peer, or everything. What was under way with it is void."""
        ...


MAX_PAYLOAD_BYTES = 2 << 20
