"""One worker of an exploration: sessions, tickets, sends and pages, driven by the tables of the rules.

Mirrors runtime/worker/{service,tickets,sends}.py and the engine's sequence, call by call, as far as
one request can tell. Computing takes no time: whatever can be computed is, with the event that made
it possible (docs/verify.md says why nothing is lost by that). Knows no channels and no faults.
"""

from collections.abc import Callable

from mserve.compiler.protocol import (
    Check,
    Message,
    ProtocolError,
    SendEvent,
    SendState,
    TicketEvent,
    TicketState,
)
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.receiving import Receiving
from mserve.compiler.verifier.sending import Sending
from mserve.compiler.verifier.signals import ROUTER, Kind, Signal
from mserve.compiler.verifier.views import (
    NOBODY,
    OVER,
    SENDER,
    Send,
    Session,
    Ticket,
    bits,
)


class Worker(Receiving, Sending):
    """Worker `index` of a scene in one state; methods are what can happen to it."""

    # --- what can happen -----------------------------------------------------------------------

    def take(self, signal: Signal) -> None:
        """Handles one signal of the router or of another worker. Raises Violation."""
        handlers: dict[Kind, Callable[[Signal], None]] = {
            Kind.PLAN: self._on_plan,
            Kind.CLOSE: self._on_close,
            Kind.OPEN: self._on_open,
            Kind.DATA: self._on_data,
            Kind.FIN: self._on_fin,
            Kind.WITHDRAW: self._on_withdraw,
            Kind.GRANT: self._on_grant,
            Kind.ACK: self._on_ack,
            Kind.REFUSE: self._on_refuse,
            Kind.LOST: self._on_lost,
        }
        try:
            handlers[signal.kind](signal)
        except ProtocolError as error:
            raise Violation(Property.END, f"the worker comes to a halt: {error}") from None

    def expire_ticket(self, number: int) -> None:
        """Its lease runs out."""
        ticket = self._ticket(number)
        if ticket is not None and (ticket.state, TicketEvent.EXPIRE) in self._rules.ticket:
            self._advance_ticket(ticket, TicketEvent.EXPIRE)
            self._fail(ticket.session, -1)

    def expire_send(self, number: int) -> None:
        """Nothing is heard from its receiver for too long."""
        send = self._send(number)
        if send is None or (send.state, SendEvent.EXPIRE) not in self._rules.send:
            return
        was_waiting = send.state is SendState.OPENING
        receiver = self._scene.transfers[number].receiver
        self._give_up(send, SendEvent.EXPIRE)
        if not was_waiting:
            self._letters.append((receiver, Signal(Kind.LOST, self._index)))

    def expire_parked(self, number: int) -> None:
        """No plan claimed an announcement in time."""
        self._parked.remove(number)
        self._tell_sender(number, Kind.REFUSE)

    def _on_lost(self, message: Signal) -> None:
        """The connection to a worker is gone (service._peer_lost)."""
        transfers = self._scene.transfers
        for ticket in [t for s in self._sessions.values() for t in s.tickets]:
            is_peer = ticket.peer == SENDER and transfers[ticket.number].sender == message.subject
            if is_peer and ticket.session.number in self._sessions:
                self._lose(ticket)
        for send in [o for s in self._sessions.values() for o in s.sends]:
            is_peer = transfers[send.number].receiver == message.subject
            is_open = (send.state, SendEvent.RECEIVER_LOST) in self._rules.send
            if is_peer and is_open and send.session.number in self._sessions:
                self._give_up(send, SendEvent.RECEIVER_LOST)

    # --- plan calls ----------------------------------------------------------------------------

    def _on_plan(self, call: Signal) -> None:
        """Submits a call, or refuses it whole (service.submit)."""
        for check in self._rules.checks[Message.PLAN]:
            if not self._passes_plan(check, call):
                self._letters.append((ROUTER, Signal(Kind.FAIL, call.subject, -1)))
                return
        for check in (Check.INCARNATION, Check.NEWEST, Check.FRESH):
            if not self._passes_plan(check, call):
                what = {
                    Check.INCARNATION: "means an earlier incarnation of it",
                    Check.NEWEST: "a later attempt has overtaken",
                    Check.FRESH: "it has begun before",
                }[check]
                raise Violation(Property.STALE, f"it begins a call that {what}")
        self._begin(call)

    def _passes_plan(self, check: Check, call: Signal) -> bool:
        match check:
            case Check.INCARNATION:
                return call.detail == self._incarnation
            case Check.NEWEST:
                return call.subject >= self._newest
            case _:
                return call.subject not in self._sessions

    def _begin(self, call: Signal) -> None:
        self._newest = max(self._newest, call.subject)
        task = self._task(call.subject)
        first_token, num_tokens = call.more
        session = Session(call.subject, task, first_token, num_tokens)
        self._sessions[call.subject] = session
        session.tickets = [Ticket(session, number) for number in task.receives]
        session.sends = [Send(session, number) for s in task.sends for number in s.tickets]
        for ticket in session.tickets:
            if ticket.number in self._parked and session.number in self._sessions:
                self._parked.remove(ticket.number)
                self._announced(ticket, SENDER, is_meant=True)
        self._settle(session)

    def _on_close(self, call: Signal) -> None:
        """The router has closed the connection: the plan is cancelled here."""
        session = self._sessions.get(call.subject)
        if session is not None:
            self._end(session)

    # --- sequences -----------------------------------------------------------------------------

    def _settle(self, session: Session) -> None:
        """After any progress: pages, frontier, sends, and whether all is done (engine._settle)."""
        if session.number not in self._sessions:
            return
        if not session.is_running:
            if not self._is_eligible(session):
                return
            self._start(session)
        self._compute(session)
        for send in session.sends:
            self._pump(send)
        if session.num_tokens and session.frontier >= session.task.compute_end:
            self._generate(session)
        if self._is_complete(session):
            self._letters.append((ROUTER, Signal(Kind.DONE, session.number)))
            self._end(session)

    def _is_eligible(self, session: Session) -> bool:
        if not session.tickets or any(t.peer != NOBODY for t in session.tickets):
            return True
        first = self._scene.transfers[session.tickets[0].number].begin
        return any(self._scene.transfers[o.number].begin < first for o in session.sends)

    def _start(self, session: Session) -> None:
        """The sequence has its pages: who waits for them may write, and sends are announced.

        Its prefix cache may have more than the router knew.
        """
        session.is_running = True
        has_more = bool(session.tickets) and self._choices.among(2) == 1
        session.frontier = session.task.compute_end if has_more else session.task.cached
        session.kv = (1 << session.frontier) - 1
        for ticket in session.tickets:
            if ticket.peer != NOBODY and ticket.state is TicketState.REGISTERED:
                self._reserved(ticket)
        for send in session.sends:
            self._advance_send(send, SendEvent.OPEN)

    def _compute(self, session: Session) -> None:
        """The frontier moves over what is shown and computes up to what is still to come."""
        for ticket in session.tickets:
            transfer = self._scene.transfers[ticket.number]
            if session.frontier >= transfer.end:
                continue
            session.frontier = self._computed(session, transfer.begin)
            if not ticket.is_shown:
                return
            rest = bits(session.frontier, transfer.end)
            self._check_read(session, rest, f"reads ticket {transfer.name}")
            session.frontier = transfer.end
        session.frontier = self._computed(session, session.task.compute_end)

    def _computed(self, session: Session, end: int) -> int:
        session.kv |= bits(session.frontier, end)
        return max(session.frontier, end)

    def _generate(self, session: Session) -> None:
        """All tokens at once; the answer may end with any of them."""
        if session.has_generated:
            return
        session.has_generated = True
        count = session.num_tokens - self._choices.among(session.num_tokens)
        total = session.first_token + count
        ends_early = count < session.num_tokens
        for token in range(session.first_token, total):
            is_last = int(ends_early and token == total - 1)
            letter = Signal(Kind.TOKEN, session.number, token, (is_last,))
            self._letters.append((ROUTER, letter))
        finish = Signal(Kind.FINISH, session.number, total, (int(not ends_early),))
        self._letters.append((ROUTER, finish))

    def _is_complete(self, session: Session) -> bool:
        if session.number not in self._sessions or session.frontier < session.task.compute_end:
            return False
        if session.num_tokens and not session.has_generated:
            return False
        are_sent = all(send.state is SendState.ACKNOWLEDGED for send in session.sends)
        return are_sent and all(ticket.is_shown for ticket in session.tickets)

    def _fail(self, session: Session, culprit: int) -> None:
        """Ends the plan here and says why, once (service.fail)."""
        if session.number in self._sessions:
            del self._sessions[session.number]
            self._end(session)
            self._letters.append((ROUTER, Signal(Kind.FAIL, session.number, culprit)))

    def _end(self, session: Session) -> None:
        """Every machine of the session goes; pages stay while one of them holds them."""
        self._sessions.pop(session.number, None)
        for ticket in session.tickets:
            if (ticket.state, TicketEvent.RELEASE) in self._rules.ticket:
                self._advance_ticket(ticket, TicketEvent.RELEASE)
            self._ended |= 1 << 2 * ticket.number
        for send in session.sends:
            if send.state not in OVER and send.state is not SendState.NEW:
                self._advance_send(send, SendEvent.CANCEL)
            self._ended |= 1 << 2 * send.number + 1
        self._leaving |= session.holds
