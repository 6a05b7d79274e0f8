"""The receiving side of KV transfers: tickets, their leases and what their senders may do with them.

Lives in the engine process beside the pages, single-threaded. Every change of a ticket goes through
`compiler.protocol.TICKET`; this module performs the effects. It knows neither HTTP nor scheduling:
the engine decides when a sequence's pages can be reserved, the caller what a failed plan means.
"""

from collections import OrderedDict
from collections.abc import Iterable
from math import inf

from xxhash import xxh3_64_intdigest

from mserve.compiler.protocol import (
    TICKET,
    Check,
    Effect,
    Message,
    TicketEvent,
    TicketState,
    advance,
)
from mserve.runtime.engine.batching import KvStore
from mserve.runtime.errors import Gone, RequestError, WorkerLost
from mserve.runtime.messages import PrepRecvCall
from mserve.runtime.transport.base import Transport
from mserve.runtime.worker import wire
from mserve.runtime.worker.hosts import ReceiverHost
from mserve.runtime.worker.parking import Parking
from mserve.runtime.worker.ticket import Identity, Ticket, failed_check, mismatch

MAX_TOMBSTONES = 4096


class Tickets:
    """All tickets of one engine process."""

    def __init__(
        self,
        host: ReceiverHost,
        kv: KvStore,
        transport: Transport,
        incarnation: str,
        fingerprint: str,
        lease_s: float = 10.0,
    ) -> None:
        self._host = host
        self._kv = kv
        self._transport = transport
        self._identity = Identity(incarnation, fingerprint)
        self._lease_s = lease_s
        self._tickets: dict[str, Ticket] = {}
        self._by_key: dict[str, list[Ticket]] = {}
        self._parking = Parking()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self.num_dropped = 0  # late, foreign or repeated messages
        self.num_corrupted = 0  # payloads that are not what their sender's checksum says

    def __len__(self) -> int:
        return len(self._tickets)

    def get(self, name: str) -> Ticket | None:
        return self._tickets.get(name)

    def describe(self) -> dict[str, str]:
        """Ticket name to state, for people."""
        return {ticket.name: str(ticket.state) for ticket in self._tickets.values()}

    def of(self, key: str) -> list[Ticket]:
        return self._by_key.get(key, [])

    # --- the plan's side -----------------------------------------------------------------------

    def register(self, key: str, call: PrepRecvCall, held: bool, now: float) -> None:
        """Names a ticket. It owns no pages until its sender is there."""
        deadline_s = inf if held else now + self._lease_s
        ticket = Ticket(call.ticket, key, call.step, call.begin, call.end, now, deadline_s)
        self._tickets[ticket.name] = ticket
        self._by_key.setdefault(key, []).append(ticket)
        parked = self._parking.take(ticket.name)
        if parked is not None:
            self._open(*parked, now)

    def unopened(self, before_s: float) -> list[tuple[str, str]]:
        """(plan, step) of those registered before this whose sender has no pages yet."""
        registered = (
            t
            for t in self._tickets.values()
            if t.state is TicketState.REGISTERED and t.registered_s <= before_s
        )
        return [(ticket.key, ticket.step) for ticket in registered]

    def want(self, name: str, event: TicketEvent, now: float) -> None:
        """A step of the plan uses (USE) or keeps (COMMIT) the ticket once it has arrived."""
        ticket = self._tickets.get(name)
        if ticket is not None:
            ticket.wanted = event
            self._settle(ticket, now)

    def hold(self, names: Iterable[str], now: float, *, held: bool = False) -> int:
        """Renews leases; `held`: for as long as an HTTP call is open. Returns how many it found."""
        found = [self._tickets[name] for name in names if name in self._tickets]
        for ticket in found:
            if held or ticket.deadline_s != inf:  # an open call's hold is never shortened
                ticket.deadline_s = inf if held else now + self._lease_s
        return len(found)

    def reserved(self, key: str, now: float) -> None:
        """The sequence's pages are there: grant every sender that has announced itself."""
        for ticket in self.of(key):
            if ticket.peer is not None and ticket.state is TicketState.REGISTERED:
                self._advance(ticket, TicketEvent.OPEN, now)

    def release(self, name: str, now: float) -> None:
        """Ends one ticket; its plan goes on without it."""
        ticket = self._tickets.get(name)
        if ticket is not None:
            self._by_key[ticket.key].remove(ticket)
            self._release(ticket, now)

    def end(self, key: str, now: float) -> None:
        """The plan is over at this worker, however it ended: every ticket of it goes."""
        for ticket in self._by_key.pop(key, []):
            self._release(ticket, now)

    # --- the senders' side ---------------------------------------------------------------------

    def on_open(self, peer: bytes, message: wire.Open, now: float) -> None:
        if message.ticket in self._tickets:
            self._open(peer, message, now)
        elif message.ticket in self._ended:
            self._refuse(peer, message.ticket, Gone("The ticket is no longer valid."))
        elif not self._parking.park(peer, message, now):
            self._refuse(peer, message.ticket, Gone("Too many unknown tickets are waiting."))

    def on_data(self, peer: bytes, message: wire.Data, payload: memoryview, now: float) -> None:
        """Copies one (layer, range) into the pages, under the ticket's check."""
        ticket = self._takes(TicketEvent.DATA, message.ticket)
        failed = (
            None
            if ticket is None
            else failed_check(Message.DATA, ticket, peer, message, self._identity)
        )
        expected = (message.end - message.begin) * self._kv.bytes_per_token_layer
        if ticket is None or failed is not None or len(payload) != expected:
            self.num_dropped += 1
            return
        if message.checksum is not None and xxh3_64_intdigest(payload) != message.checksum:
            self._reject_corrupted(ticket, peer, message, now)
            return
        sequence = self._host.sequence(ticket.key)
        assert sequence is not None, "who takes data has a living sequence"
        self._kv.write(sequence.pages, message.layer, message.begin, message.end, payload)
        self._advance(ticket, TicketEvent.DATA, now, message)

    def _reject_corrupted(self, ticket: Ticket, peer: bytes, data: wire.Data, now: float) -> None:
        self.num_corrupted += 1
        span = f"layer {data.layer}, tokens [{data.begin}, {data.end})"
        error = WorkerLost(f"KV of {span} arrived with a wrong checksum.")
        self._refuse(peer, ticket.name, error)
        self._lose(ticket, error, now)

    def on_fin(self, peer: bytes, message: wire.Fin, now: float) -> None:
        ticket = self._takes(TicketEvent.FIN, message.ticket)
        failed = (
            None
            if ticket is None
            else failed_check(Message.FIN, ticket, peer, message, self._identity)
        )
        if ticket is None or failed is Check.PEER:
            self.num_dropped += 1
        elif failed is Check.COMPLETE:
            detail = f"The sender ended at token {min(ticket.frontier)} of {ticket.end}."
            self._refuse(peer, ticket.name, Gone(detail))
            self._lose(ticket, WorkerLost(detail), now)
        else:
            self._advance(ticket, TicketEvent.FIN, now)
            self._host.received(ticket, now)
            self._settle(ticket, now)

    def on_withdraw(self, peer: bytes, message: wire.Withdraw, now: float) -> None:
        was_parked = self._parking.withdraw(message.ticket, peer)
        ticket = self._takes(TicketEvent.SENDER_LOST, message.ticket)
        if (
            ticket is None
            or failed_check(Message.WITHDRAW, ticket, peer, message, self._identity) is not None
        ):
            self.num_dropped += not was_parked
            return
        self._lose(ticket, WorkerLost(f"The sender gave up: {message.detail}"), now)

    def peer_lost(self, peer: bytes, reason: str, now: float) -> None:
        for ticket in [t for t in self._tickets.values() if t.peer == peer]:
            self._lose(ticket, WorkerLost(f"The sender of a KV range is gone: {reason}"), now)
        self._parking.lose(peer)

    # --- time ----------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Ends tickets whose lease ran out and refuses announcements that no plan claimed."""
        for ticket in [t for t in self._tickets.values() if t.deadline_s <= now]:
            if (ticket.state, TicketEvent.EXPIRE) in TICKET:
                self._advance(ticket, TicketEvent.EXPIRE, now)
                error = Gone("The ticket's lease ran out; renew it or start again.")
                self._host.fail(ticket.key, error, ticket.step, now)
        for peer, name in self._parking.take_expired(now):
            self._refuse(peer, name, Gone("No plan at this worker knows the ticket."))

    # --- inside --------------------------------------------------------------------------------

    def _open(self, peer: bytes, message: wire.Open, now: float) -> None:
        ticket = self._tickets[message.ticket]
        failed = failed_check(Message.OPEN, ticket, peer, message, self._identity)
        if ticket.peer is not None:
            self.num_dropped += 1
        elif failed is not None:
            error = mismatch(failed, ticket, message, self._identity)
            self._refuse(peer, ticket.name, error)
            self._host.fail(ticket.key, error, ticket.step, now)
        else:
            ticket.peer, ticket.opened_s = peer, now
            self._host.opened(ticket.key, ticket.name, now)

    def _takes(self, event: TicketEvent, name: str) -> Ticket | None:
        """The ticket, if it is there and the table allows the event."""
        ticket = self._tickets.get(name)
        return ticket if ticket is not None and (ticket.state, event) in TICKET else None

    def _settle(self, ticket: Ticket, now: float) -> None:
        if ticket.wanted is not None and ticket.state is TicketState.ARRIVED:
            self._advance(ticket, ticket.wanted, now)

    def _lose(self, ticket: Ticket, error: RequestError, now: float) -> None:
        if (ticket.state, TicketEvent.SENDER_LOST) not in TICKET:
            return
        self._advance(ticket, TicketEvent.SENDER_LOST, now)
        if ticket.state is TicketState.RELEASED:
            self._host.fail(ticket.key, error, ticket.step, now)

    def _advance(
        self, ticket: Ticket, event: TicketEvent, now: float, data: wire.Data | None = None
    ) -> None:
        transition = advance(TICKET, ticket.state, event)
        ticket.state = transition.state
        for effect in transition.effects:
            if effect is Effect.COUNT:
                assert data is not None, "only data is counted"
                self._count(ticket, data, now)
            else:
                self._perform(effect, ticket, now)

    def _perform(self, effect: Effect, ticket: Ticket, now: float) -> None:
        match effect:
            case Effect.HOLD:
                self._host.hold(ticket.key, ticket.name)
            case Effect.LET_GO:
                self._host.let_go(ticket.name)
            case Effect.GRANT:
                self._grant(ticket)
            case Effect.ACK:
                assert ticket.peer is not None, "what arrived had a sender"
                self._transport.send(ticket.peer, wire.encode(wire.Ack(ticket.name)))
            case Effect.PUBLISH:
                self._host.arrived(ticket.key, ticket.name, now)
            case Effect.REFUSE:
                if ticket.peer is not None:
                    self._refuse(ticket.peer, ticket.name, Gone("The ticket has ended."))
            case _:
                raise AssertionError(f"'{effect}' is no effect of a ticket")

    def _grant(self, ticket: Ticket) -> None:
        sequence = self._host.sequence(ticket.key)
        assert sequence is not None, "pages were reserved for a living sequence"
        assert ticket.peer is not None, "a grant answers an Open"
        ticket.granted_begin = min(max(ticket.begin, sequence.num_matched), ticket.end)
        ticket.frontier = [ticket.granted_begin] * self._kv.num_layers
        grant = wire.Grant(ticket.name, ticket.granted_begin)
        self._transport.send(ticket.peer, wire.encode(grant))

    def _count(self, ticket: Ticket, data: wire.Data, now: float) -> None:
        ticket.frontier[data.layer] = data.end
        ticket.received_bytes += (data.end - data.begin) * self._kv.bytes_per_token_layer
        if ticket.deadline_s != inf:
            ticket.deadline_s = now + self._lease_s

    def _refuse(self, peer: bytes, name: str, error: RequestError) -> None:
        self._transport.send(peer, wire.encode(wire.Refuse(name, error.kind, error.detail)))

    def _release(self, ticket: Ticket, now: float) -> None:
        if (ticket.state, TicketEvent.RELEASE) in TICKET:
            self._advance(ticket, TicketEvent.RELEASE, now)
        self._bury(ticket)

    def _bury(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket.name, None)
        self._ended[ticket.name] = None
        while len(self._ended) > MAX_TOMBSTONES:
            self._ended.popitem(last=False)
