"""The links between simulated workers: the `Transport` seam with prices instead of bytes.

A range of KV is one message: it takes the sender's way out and the receiver's way in for as long as its
bytes need, after what was there before. Messages of a pair arrive in order. Knows neither tickets nor
pages; of the model only how many bytes a token's KV has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.transport.base import (
    MAX_PAYLOAD_BYTES,
    PeerLost,
    Received,
    Slot,
    TransportEvent,
)

EMPTY = memoryview(b"")


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One worker's link, alike in both directions."""

    bytes_per_s: float
    kv_bytes_per_token: float
    num_layers: int  # a range is handed over in so many parts, as the layers are computed


@dataclass(frozen=True, slots=True)
class Computing:
    """A step that computes KV while it goes out: the first layer is there at `first_s`, the last one
    at `end_s`, in virtual seconds."""

    first_s: float
    end_s: float


class PricedSlot:
    """Stands for `len(view)` tokens' KV: a byte for each."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def view(self) -> memoryview:
        return self._view

    def release(self) -> None:
        """Nothing was taken."""


class Links:
    """All links of a cluster. Addresses are never given out twice."""

    def __init__(self, clock: VirtualClock, *, latency_s: float) -> None:
        self._clock = clock
        self._latency_s = latency_s
        self._members: dict[bytes, PricedTransport] = {}
        self._num_joined = 0
        self._arrived_s: dict[tuple[bytes, bytes], float] = {}  # of each pair's last message
        self._blank = memoryview(bytearray(MAX_PAYLOAD_BYTES))
        self.num_bytes = 0.0  # of KV

    def join(self, spec: LinkSpec, on_event: Callable[[], None]) -> "PricedTransport":
        """A new transport; `on_event` is called when there is something to poll."""
        self._num_joined += 1
        address = b"priced:%d" % self._num_joined
        self._members[address] = PricedTransport(self, address, spec, on_event)
        return self._members[address]

    def kill(self, address: bytes) -> None:
        """Ends a transport as SIGKILL ends a process: what is on its way to or from it is lost."""
        member = self._members.pop(address, None)
        if member is not None:
            for peer in member.peers:
                self._report_loss(address, peer, "the peer died")

    # --- what transports ask -------------------------------------------------------------------

    def stage(self, num_bytes: int) -> PricedSlot:
        return PricedSlot(self._blank[:num_bytes])

    def carry(
        self, sender: "PricedTransport", peer: bytes, header: bytes, slot: Slot | None
    ) -> None:
        receiver = self._members.get(peer)
        if receiver is None:
            self._report_loss(peer, sender.address, "no such peer")
            return
        sender.peers[peer] = receiver.peers[sender.address] = None
        payload = EMPTY if slot is None else slot.view
        left_s = self._clock.now()
        if payload:
            left_s = self._occupy(sender, receiver, len(payload))
        pair = (sender.address, peer)
        arrival_s = max(self._arrived_s.get(pair, 0.0), left_s + self._latency_s)
        self._arrived_s[pair] = arrival_s
        self._clock.call_at(arrival_s, partial(self._arrive, sender, receiver, header, payload))

    def report_closed(self, address: bytes, peer: bytes) -> None:
        self._report_loss(address, peer, "the peer closed the connection")

    # --- inside --------------------------------------------------------------------------------

    def _occupy(
        self, sender: "PricedTransport", receiver: "PricedTransport", num_tokens: int
    ) -> float:
        """When the last byte has left. KV that a step still computes cannot leave before."""
        num_bytes = num_tokens * sender.spec.kv_bytes_per_token
        self.num_bytes += num_bytes
        wire_s = num_bytes / min(sender.spec.bytes_per_s, receiver.spec.bytes_per_s)
        begin_s = max(self._clock.now(), sender.out_free_s, receiver.in_free_s)
        computing = sender.computing
        if computing is not None:
            begin_s = max(begin_s, computing.first_s)
        end_s = sender.out_free_s = receiver.in_free_s = begin_s + wire_s
        if computing is not None:
            end_s = max(end_s, computing.end_s + wire_s / sender.spec.num_layers)
        return end_s

    def _arrive(
        self,
        sender: "PricedTransport",
        receiver: "PricedTransport",
        header: bytes,
        payload: memoryview,
    ) -> None:
        if sender.address in self._members and receiver.address in self._members:
            receiver.accept(Received(sender.address, header, payload))

    def _report_loss(self, lost: bytes, peer: bytes, reason: str) -> None:
        self._clock.call_after(self._latency_s, partial(self._lose, lost, peer, reason))

    def _lose(self, lost: bytes, peer: bytes, reason: str) -> None:
        member = self._members.get(peer)
        if member is not None:
            member.peers.pop(lost, None)
            member.accept(PeerLost(lost, reason))


class PricedTransport:
    """Implements `Transport`; made by `Links.join`."""

    def __init__(
        self, links: Links, address: bytes, spec: LinkSpec, on_event: Callable[[], None]
    ) -> None:
        self._links = links
        self._address = address
        self._on_event = on_event
        self._inbox: list[TransportEvent] = []
        self.spec = spec
        self.peers: dict[bytes, None] = {}  # who was ever sent something, or sent it
        self.out_free_s = 0.0  # when the way out is free again
        self.in_free_s = 0.0
        self.computing: Computing | None = None  # whoever drives the engine says so

    @property
    def address(self) -> bytes:
        return self._address

    def stage(self, peer: bytes, num_bytes: int) -> PricedSlot:
        return self._links.stage(num_bytes)

    def send(self, peer: bytes, header: bytes, slot: Slot | None = None) -> None:
        self._links.carry(self, peer, header, slot)

    def poll(self) -> list[TransportEvent]:
        arrived, self._inbox = self._inbox, []
        return arrived

    def wakeup_fd(self) -> int | None:
        raise AssertionError(
            "nobody sleeps on a descriptor here: a priced transport calls `on_event`"
        )

    def close(self, peer: bytes | None = None) -> None:
        for other in list(self.peers) if peer is None else [peer]:
            if self.peers.pop(other, "none") is None:
                self._inbox = [event for event in self._inbox if event.peer != other]
                self._links.report_closed(self._address, other)

    def accept(self, event: TransportEvent) -> None:
        """The links' side."""
        self._inbox.append(event)
        self._on_event()
