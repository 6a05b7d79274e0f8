"""One connection between two UCX transports: order, payloads, and what is under way.

Owns the requests and slots of its peer in both directions. A header goes first; the receiver asks
for the payload once it has a slot for it, which is all the back-pressure there is. It does not
know how peers find each other or when one is given up: ucx.py does.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from mserve.runtime.transport.base import MAX_PAYLOAD_BYTES, Received
from mserve.runtime.transport.ring import SlotRing, StagingSlot
from mserve.runtime.transport.ucx_endpoint import UcxEndpoint, UcxFailure, UcxRequest
from mserve.runtime.transport.ucx_wire import (
    MalformedMessage,
    control_tag,
    pack_control,
    payload_tag,
    unpack_control,
)

NO_PAYLOAD = memoryview(b"")


@dataclass(slots=True)
class Pending:
    """A request and the slot, if any, that comes free when it has ended."""

    request: UcxRequest
    slot: StagingSlot | None = None


@dataclass(slots=True)
class _Inbound:
    """A message on its way in; `header` is None until its control message is whole."""

    sequence: int
    control: bytearray
    control_request: UcxRequest
    header: bytes | None = None
    num_payload_bytes: int = 0
    stamp: int = 0
    payload: Pending | None = None

    def read_control(self) -> bool:
        """Whether the header is known by now. Raises UcxFailure, MalformedMessage."""
        if self.header is None and self.control_request.is_done():
            self.header, self.num_payload_bytes, self.stamp = unpack_control(self.control)
            if self.num_payload_bytes > MAX_PAYLOAD_BYTES:
                raise MalformedMessage("The peer announced a payload that fits no slot.")
        return self.header is not None

    @property
    def needs_slot(self) -> bool:
        return self.num_payload_bytes > 0 and self.payload is None

    def is_whole(self) -> bool:
        """Raises UcxFailure, MalformedMessage."""
        if self.header is None or self.needs_slot:
            return False
        if self.payload is None or self.payload.slot is None:
            return True
        if not self.payload.request.is_done():
            return False
        if not self.payload.slot.bears(self.stamp):
            raise MalformedMessage("The sender gave a payload up while it was read.")
        return True


@dataclass(slots=True, eq=False)
class Connection:
    """`channel` tags what the peer sends us, `peer_channel` what we send, once its HELLO told."""

    peer: bytes
    endpoint: UcxEndpoint
    channel: int
    receiving: SlotRing
    peer_channel: int | None = None
    is_open: bool = True
    is_busy: bool = False  # in its transport's queue of connections to advance
    _outbox: deque[tuple[bytes, StagingSlot | None]] = field(default_factory=deque)
    _sends: deque[Pending] = field(default_factory=deque)
    _inbox: deque[_Inbound] = field(default_factory=deque)
    _num_sent: int = 0
    _num_arrived: int = 0

    @property
    def has_work(self) -> bool:
        """Whether `advance` has anything to look after."""
        return bool(self._sends or self._inbox)

    @property
    def waits_for_slot(self) -> bool:
        return any(inbound.needs_slot for inbound in self._inbox)

    def establish(self, peer_channel: int) -> None:
        """The peer's HELLO came: sends what waited for it. Raises UcxFailure."""
        assert self.peer_channel is None, "a connection is established once"
        self.peer_channel = peer_channel
        while self._outbox:
            self._post(*self._outbox.popleft(), peer_channel)

    def send(self, header: bytes, slot: StagingSlot | None) -> None:
        """Queues a message; its slot comes free when it has left. Raises UcxFailure."""
        if self.peer_channel is None:
            self._outbox.append((header, slot))
            return
        self._post(header, slot, self.peer_channel)
        self._finish_sends()

    def send_bye(self, bye: bytes, tag: int) -> bool:
        """Whether it could leave at once. Raises UcxFailure."""
        request = self.endpoint.send(bye, tag)
        self._sends.append(Pending(request))
        return request.ended

    def accept(self, sequence: int, control: bytearray, request: UcxRequest) -> None:
        """Takes a control message in the order of arrival. Raises MalformedMessage."""
        self._inbox.append(_Inbound(sequence, control, request))
        if sequence != self._num_arrived:
            raise MalformedMessage(
                f"Message {self._num_arrived} was due and {sequence} came: the order is broken."
            )
        self._num_arrived += 1

    def advance(self) -> Iterator[tuple[Received, StagingSlot | None]]:
        """Frees slots that have left, asks for payloads, yields whole messages in order.

        The receiver of a yielded slot gives it back. Raises UcxFailure, MalformedMessage.
        """
        self._finish_sends()
        for inbound in self._inbox:
            if not inbound.read_control():
                break
            if inbound.needs_slot and not self._ask_for_payload(inbound):
                break
        while self._inbox and self._inbox[0].is_whole():
            yield self._take_whole()

    def abandon(self) -> list[Pending]:
        """Ends the connection; returns what UCX may touch until the request has ended."""
        self.is_open = False
        for _, slot in self._outbox:
            if slot is not None:
                slot.reclaim()
        self._outbox.clear()
        self.endpoint.close()
        return self._leftovers()

    def _leftovers(self) -> list[Pending]:
        leftovers = list(self._sends)
        for inbound in self._inbox:
            leftovers.append(Pending(inbound.control_request))
            if inbound.payload is not None:
                leftovers.append(inbound.payload)
        self._sends.clear()
        self._inbox.clear()
        return leftovers

    def _post(self, header: bytes, slot: StagingSlot | None, peer_channel: int) -> None:
        size, stamp = (0, 0) if slot is None else (len(slot.view), slot.number)
        control = pack_control(header, size, stamp)
        tag = control_tag(peer_channel, self._num_sent)
        try:
            self._sends.append(Pending(self.endpoint.send(control, tag)))
            if slot is not None:
                tag = payload_tag(peer_channel, self._num_sent)
                self._sends.append(Pending(self.endpoint.send(slot.frame, tag), slot))
        except UcxFailure:
            if slot is not None:
                slot.reclaim()
            raise
        self._num_sent += 1

    def _finish_sends(self) -> None:
        while self._sends and self._sends[0].request.is_done():
            slot = self._sends.popleft().slot
            if slot is not None:
                slot.reclaim()

    def _ask_for_payload(self, inbound: _Inbound) -> bool:
        """False while there is no slot for it."""
        slot = self.receiving.take(self.peer, inbound.num_payload_bytes)
        if slot is None:
            return False
        try:
            request = self.endpoint.receive(slot.frame, payload_tag(self.channel, inbound.sequence))
        except UcxFailure:
            slot.reclaim()
            raise
        inbound.payload = Pending(request, slot)
        return True

    def _take_whole(self) -> tuple[Received, StagingSlot | None]:
        inbound = self._inbox.popleft()
        assert inbound.header is not None, "only whole messages are taken"
        slot = None if inbound.payload is None else inbound.payload.slot
        payload = NO_PAYLOAD if slot is None else slot.view.toreadonly()
        return Received(self.peer, inbound.header, payload), slot
