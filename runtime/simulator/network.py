"""The wires between engines: the `Transport` seam with latency, bandwidth and disturbances.

Per pair of workers messages arrive whole and in order, or the peer is reported lost; `disturb` may
break that promise on purpose. Knows neither tickets nor pages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.transport.base import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    PeerLost,
    Received,
    Slot,
    TransportEvent,
)

HEADER_BYTES = 64  # what a message costs on the wire beside its payload

Disturb = Callable[[bytes], Sequence[float]]
"""From a message's header to the extra delays, in seconds, at which it arrives: (0.0,) undisturbed,
() lost, several: repeated. The first keeps its place in the order of messages, repetitions do not."""


def undisturbed(header: bytes) -> Sequence[float]:
    return (0.0,)


@dataclass(slots=True, eq=False)
class _Connection:
    """Between two transports. Once void, nothing that was sent over it arrives."""

    is_void: bool = False


@dataclass(slots=True, eq=False)
class _Wire:
    """One direction between two addresses: messages queue for it."""

    free_s: float = 0.0
    arrived_s: float = 0.0  # when the last message arrives


class VirtualSlot:
    """A staging buffer; counts against its peer's share until it has arrived."""

    def __init__(self, transport: "VirtualTransport", peer: bytes, num_bytes: int) -> None:
        self._transport = transport
        self._peer = peer
        self._view = memoryview(bytearray(num_bytes))

    @property
    def view(self) -> memoryview:
        return self._view

    def release(self) -> None:
        self._transport.slot_free(self._peer)


class VirtualNetwork:
    """All transports of a cluster. Addresses are never given out twice."""

    def __init__(
        self,
        clock: VirtualClock,
        *,
        latency_s: float = 50e-6,
        bytes_per_s: float = 10e9,
        disturb: Disturb = undisturbed,
    ) -> None:
        self._clock = clock
        self._latency_s = latency_s
        self._bytes_per_s = bytes_per_s
        self._disturb = disturb
        self._members: dict[bytes, VirtualTransport] = {}
        self._num_joined = 0
        self._wires: dict[tuple[bytes, bytes], _Wire] = {}
        self._connections: dict[frozenset[bytes], _Connection] = {}
        self.num_under_way = 0

    def join(self, on_event: Callable[[], None], *, slots_per_peer: int = 8) -> "VirtualTransport":
        """A new transport; `on_event` is called when there is something to poll."""
        self._num_joined += 1
        address = b"virtual:%d" % self._num_joined
        self._members[address] = VirtualTransport(self, address, on_event, slots_per_peer)
        return self._members[address]

    def kill(self, address: bytes, *, lose_in_flight: bool = True) -> None:
        """Ends a transport as SIGKILL ends a process. What it sent just before is lost, or arrives
        before its peers notice."""
        member = self._members.pop(address, None)
        if member is not None:
            for peer, connection in member.abandon():
                connection.is_void = lose_in_flight
                self._report_loss(address, peer, connection, "the peer died")

    # --- what transports ask -------------------------------------------------------------------

    def connect(self, sender: bytes, peer: bytes) -> _Connection:
        """The connection of these two; one to nobody is soon reported as lost."""
        pair = frozenset((sender, peer))
        connection = self._connections.get(pair)
        if connection is None or connection.is_void or peer not in self._members:
            connection = self._connections[pair] = _Connection()
            if peer not in self._members:
                self._report_loss(peer, sender, connection, "no such peer")
        return connection

    def disconnect(self, address: bytes, peer: bytes, connection: _Connection) -> None:
        connection.is_void = True
        self._connections.pop(frozenset((address, peer)), None)
        self._report_loss(address, peer, connection, "the peer closed the connection")

    def carry(
        self,
        sender: bytes,
        peer: bytes,
        connection: _Connection,
        header: bytes,
        slot: VirtualSlot | None,
    ) -> None:
        payload = b"" if slot is None else bytes(slot.view)
        delays = self._disturb(header)
        if not delays:  # lost on the way: its slot comes free all the same
            delays, header = (0.0,), b""
        arrive = partial(self._arrive, sender, peer, connection, header, payload)
        done_s = self._queue(sender, peer, HEADER_BYTES + len(payload), delays[0])
        self._at(done_s, partial(arrive, slot))
        for delay_s in delays[1:]:
            self._at(done_s + delay_s, partial(arrive, None))

    # --- inside --------------------------------------------------------------------------------

    def _report_loss(self, lost: bytes, peer: bytes, connection: _Connection, reason: str) -> None:
        arrival_s = self._queue(lost, peer, 0, 0.0)
        self._at(arrival_s, partial(self._lose, lost, peer, connection, reason))

    def _queue(self, sender: bytes, peer: bytes, num_bytes: int, delay_s: float) -> float:
        """When a message that is sent now arrives: after all that were sent before."""
        wire = self._wires.setdefault((sender, peer), _Wire())
        begin_s = max(wire.free_s, self._clock.now())
        wire.free_s = begin_s + num_bytes / self._bytes_per_s
        wire.arrived_s = max(wire.arrived_s, wire.free_s + self._latency_s + delay_s)
        return wire.arrived_s

    def _at(self, when: float, call: Callable[[], None]) -> None:
        self.num_under_way += 1
        self._clock.call_at(when, call)

    def _arrive(
        self,
        sender: bytes,
        peer: bytes,
        connection: _Connection,
        header: bytes,
        payload: bytes,
        slot: VirtualSlot | None,
    ) -> None:
        self.num_under_way -= 1
        if slot is not None:
            slot.release()
        receiver = self._members.get(peer)
        if receiver is not None and not connection.is_void and header:
            receiver.accept(sender, connection, header, payload)

    def _lose(self, lost: bytes, peer: bytes, connection: _Connection, reason: str) -> None:
        self.num_under_way -= 1
        connection.is_void = True
        receiver = self._members.get(peer)
        if receiver is not None:
            receiver.lose(lost, connection, reason)


class VirtualTransport:
    """Implements `Transport`; made by `VirtualNetwork.join`."""

    def __init__(
        self,
        network: VirtualNetwork,
        address: bytes,
        on_event: Callable[[], None],
        slots_per_peer: int,
    ) -> None:
        self._network = network
        self._address = address
        self._on_event = on_event
        self._slots_per_peer = slots_per_peer
        self._slots: dict[bytes, int] = {}  # held, by peer
        self._connections: dict[bytes, _Connection] = {}
        self._inbox: list[TransportEvent] = []
        self._read: list[TransportEvent] = []  # the caller's until the next poll

    @property
    def address(self) -> bytes:
        return self._address

    @property
    def num_slots_held(self) -> int:
        return sum(self._slots.values())

    def stage(self, peer: bytes, num_bytes: int) -> VirtualSlot | None:
        assert num_bytes <= MAX_PAYLOAD_BYTES, "a payload is at most 2 MiB"
        if self._slots.get(peer, 0) >= self._slots_per_peer:
            return None
        self._slots[peer] = self._slots.get(peer, 0) + 1
        return VirtualSlot(self, peer, num_bytes)

    def send(self, peer: bytes, header: bytes, slot: Slot | None = None) -> None:
        assert len(header) <= MAX_HEADER_BYTES, "a header is at most 16 KiB"
        assert slot is None or isinstance(slot, VirtualSlot), "slots come from `stage`"
        if peer not in self._connections:
            self._connections[peer] = self._network.connect(self._address, peer)
        self._network.carry(self._address, peer, self._connections[peer], bytes(header), slot)

    def poll(self) -> list[TransportEvent]:
        for event in self._read:
            if isinstance(event, Received):
                event.payload.release()
        self._read, self._inbox = self._inbox, []
        return self._read

    def wakeup_fd(self) -> int | None:
        raise AssertionError(
            "nobody sleeps on a descriptor here: a virtual transport calls `on_event`"
        )

    def close(self, peer: bytes | None = None) -> None:
        for other in list(self._connections) if peer is None else [peer]:
            connection = self._connections.pop(other, None)
            if connection is not None:
                self._inbox = [event for event in self._inbox if event.peer != other]
                self._network.disconnect(self._address, other, connection)

    # --- the network's side --------------------------------------------------------------------

    def abandon(self) -> list[tuple[bytes, _Connection]]:
        """The process is gone; its connections are left to the network."""
        return list(self._connections.items())

    def accept(self, sender: bytes, connection: _Connection, header: bytes, payload: bytes) -> None:
        held = self._connections.setdefault(sender, connection)
        assert held is connection, "a lost connection is reported before a new one is used"
        self._inbox.append(Received(sender, header, memoryview(payload)))
        self._on_event()

    def lose(self, peer: bytes, connection: _Connection, reason: str) -> None:
        if self._connections.get(peer) is connection:
            del self._connections[peer]
            self._inbox.append(PeerLost(peer, reason))
            self._on_event()

    def slot_free(self, peer: bytes) -> None:
        self._slots[peer] -= 1
        self._on_event()
