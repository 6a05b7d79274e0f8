"""The `Transport` over UCX: what a poll does, when it may sleep, when a peer is given up.

Single-threaded: `poll` moves everything, under a time budget. Who is connected is ucx_peers.py's
business, requests and slots of one peer are its connection's (ucx_connection.py); only
ucx_endpoint.py sees ucxx. A frozen peer looks alive here: whoever holds leases closes it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mserve.runtime.errors import ConfigError
from mserve.runtime.transport.base import MAX_HEADER_BYTES, PeerLost, Slot, TransportEvent
from mserve.runtime.transport.ring import BufferAllocator, SlotRing, StagingSlot, huge_pages
from mserve.runtime.transport.ucx_connection import Connection, Pending
from mserve.runtime.transport.ucx_endpoint import (
    DEFAULT_OPTIONS,
    Arrival,
    UcxFailure,
    UcxRequest,
    UcxWorker,
    lists_cma,
)
from mserve.runtime.transport.ucx_peers import Peers
from mserve.runtime.transport.ucx_wire import (
    CONTROL_BIT,
    MAX_CONTROL_BYTES,
    NONCE_BYTES,
    MalformedMessage,
    pack_address,
    split_tag,
)

POLL_BUDGET_S: Final = 0.0005  # as long as a copy of one payload takes
CLOSE_TIMEOUT_S: Final = 0.25


def cma_warning() -> str | None:
    """What to tell the operator where one process may not read another's memory; else None."""
    if lists_cma():
        return None
    return (
        "KV moves over TCP, several times slower: process_vm_readv is not permitted here. "
        "In a container, add the SYS_PTRACE capability; else set kernel.yama.ptrace_scope to 0."
    )


@dataclass(frozen=True, slots=True)
class _Greeting:
    message: bytearray
    request: UcxRequest


class UcxTransport:
    """Implements `Transport`.

    `num_slots` and `slots_per_peer` bound the staging memory of each direction: 32 slots are
    64 MiB to send from and 64 MiB to receive into. `allocate` may hand out pinned memory.
    """

    def __init__(
        self,
        *,
        num_slots: int = 32,
        slots_per_peer: int = 8,
        allocate: BufferAllocator = huge_pages,
        options: Mapping[str, str] = DEFAULT_OPTIONS,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises ConfigError where UCX finds no way to communicate under `options`."""
        try:
            self._worker = UcxWorker(options, clock)
        except UcxFailure as failure:
            raise ConfigError(f"UCX does not start with {dict(options)}: {failure}.") from failure
        self._address = pack_address(self._worker.address, random_bytes(NONCE_BYTES))
        self._clock = clock
        self._sending = SlotRing(num_slots, slots_per_peer, allocate=allocate)
        self._receiving = SlotRing(num_slots, slots_per_peer, allocate=allocate)
        self._peers = Peers(self._worker, self._address, self._receiving, self._lose)
        self._busy: deque[Connection] = deque()
        self._greetings: deque[_Greeting] = deque()
        self._quarantine: list[Pending] = []  # of lost peers; UCX may still touch their slots
        self._delivered: list[StagingSlot] = []  # read by the caller until the next poll
        self._events: list[TransportEvent] = []
        self._has_more = False  # UCX may hold messages that it will not wake us for
        self._is_open = True

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
        assert self._is_open, "a closed transport sends nothing"
        assert len(header) <= MAX_HEADER_BYTES, "a header is at most 16 KiB"
        assert slot is None or isinstance(slot, StagingSlot), "slots come from `stage`"
        if slot is not None:
            slot.take_over(peer)
        connection = self._peers.find(peer) or self._meet(peer)
        if connection is None:
            if slot is not None:
                slot.reclaim()
            return
        try:
            connection.send(header, slot)
        except UcxFailure as failure:
            self._lose(connection, str(failure))
        self._look_after(connection)

    def poll(self) -> list[TransportEvent]:
        if not self._is_open:
            return []
        for slot in self._delivered:
            slot.reclaim()
        self._delivered.clear()
        self._progress()
        self._clear_away()
        while self._peers.failed:
            self._lose(self._peers.failed.popleft(), "UCX reports the connection broken")
        for _ in range(len(self._busy)):
            self._advance(self._busy.popleft())
        events, self._events = self._events, []
        return events

    def wakeup_fd(self) -> int | None:
        assert self._is_open, "a closed transport wakes nobody"
        if self._has_more or self._events or self._peers.failed or self._greetings:
            return None
        if self._delivered and any(connection.waits_for_slot for connection in self._busy):
            return None
        return self._worker.wakeup_fd if self._worker.arm() else None

    def close(self, peer: bytes | None = None) -> None:
        if peer is None:
            self._close_all()
            return
        self._events = [event for event in self._events if event.peer != peer]
        connection = self._peers.find(peer)
        if connection is not None:
            self._peers.part(connection)
            self._drop(connection)

    def _progress(self) -> None:
        """Moves bytes and takes control messages until nothing moves or the budget is spent."""
        deadline_s = self._clock() + POLL_BUDGET_S
        self._has_more = False
        while self._step():
            if self._clock() > deadline_s:
                self._has_more = True
                break

    def _step(self) -> bool:
        moved = self._worker.progress_once()
        arrival = self._worker.take_arrival(CONTROL_BIT, CONTROL_BIT)
        if arrival is not None:
            self._take(arrival)
        if self._greetings:
            self._hear()
        return moved or arrival is not None

    def _take(self, arrival: Arrival) -> None:
        message = bytearray(min(arrival.num_bytes, MAX_CONTROL_BYTES))
        channel, sequence = split_tag(arrival.tag)
        connection = self._peers.find_channel(channel)
        try:
            request = self._worker.receive(arrival, memoryview(message))
        except UcxFailure as failure:
            if connection is not None:
                self._lose(connection, str(failure))
            return
        if channel == 0:
            self._greetings.append(_Greeting(message, request))
        elif connection is not None:
            self._accept(connection, sequence, message, request)
        else:
            self._quarantine.append(Pending(request))
            self._peers.turn_away(channel)

    def _accept(
        self, connection: Connection, sequence: int, message: bytearray, request: UcxRequest
    ) -> None:
        try:
            connection.accept(sequence, message, request)
        except MalformedMessage as malformed:
            self._reject(connection, malformed)
        self._look_after(connection)

    def _hear(self) -> None:
        """Acts on greetings, in order, that are whole."""
        while self._greetings and self._greetings[0].request.ended:
            greeting = self._greetings.popleft()
            try:
                greeting.request.is_done()
                connection = self._peers.hear(greeting.message)
            except (UcxFailure, MalformedMessage):
                continue  # its sender is unknown or gone: nobody to lose, nobody to tell
            if connection is not None:
                self._look_after(connection)

    def _advance(self, connection: Connection) -> None:
        """Delivers what is whole, and keeps looking after the connection while it has work."""
        connection.is_busy = False
        if not connection.is_open:
            return
        try:
            for received, slot in connection.advance():
                self._events.append(received)
                if slot is not None:
                    self._delivered.append(slot)
        except UcxFailure as failure:
            self._lose(connection, str(failure))
        except MalformedMessage as malformed:
            self._reject(connection, malformed)
        self._look_after(connection)

    def _look_after(self, connection: Connection) -> None:
        if connection.has_work and not connection.is_busy:
            connection.is_busy = True
            self._busy.append(connection)

    def _meet(self, peer: bytes) -> Connection | None:
        assert peer != self._address, "a transport is not its own peer"
        try:
            return self._peers.meet(peer)
        except (UcxFailure, MalformedMessage) as problem:
            self._events.append(PeerLost(peer, str(problem)))
            return None

    def _lose(self, connection: Connection, reason: str) -> None:
        if connection.is_open:
            self._drop(connection)
            self._events.append(PeerLost(connection.peer, reason))

    def _reject(self, connection: Connection, malformed: MalformedMessage) -> None:
        """The peer is alive and does not keep to the protocol: it is told, too."""
        self._peers.part(connection)
        self._lose(connection, str(malformed))

    def _drop(self, connection: Connection) -> None:
        """Voids all that is under way. Slots that UCX may still touch wait in quarantine."""
        self._peers.forget(connection)
        self._quarantine.extend(connection.abandon())
        self._has_more = True  # closing an endpoint progresses all others, too

    def _clear_away(self) -> None:
        """Ends what lost peers left behind, once UCX has let go of it."""
        self._worker.reap()
        self._peers.lose_silent()
        if not self._quarantine:
            return
        still_held = []
        for pending in self._quarantine:
            if not pending.request.ended:
                still_held.append(pending)
            elif pending.slot is not None:
                pending.slot.reclaim()
        self._quarantine = still_held

    def _close_all(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for connection in self._peers.all():
            self._peers.part(connection)
            self._drop(connection)
        deadline_s = self._clock() + CLOSE_TIMEOUT_S
        while not self._worker.reap() and self._clock() < deadline_s:
            self._worker.progress_once()
        self._greetings.clear()
        self._events.clear()
        self._busy.clear()
        self._worker.close()
        self._quarantine.clear()
