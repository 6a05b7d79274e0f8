"""The receiving side at a worker of an exploration; mirrors runtime/worker/tickets.py."""

from mserve.compiler.protocol import (
    Check,
    Effect,
    Message,
    TicketEvent,
    TicketState,
    advance,
)
from mserve.compiler.verifier.desk import Desk
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.signals import Kind, Signal
from mserve.compiler.verifier.views import (
    HALVES,
    NOBODY,
    SENDER,
    STRANGER,
    Ticket,
    half_of,
)


class Receiving(Desk):
    """What happens to tickets."""

    def _on_open(self, message: Signal) -> None:
        number = message.subject
        ticket = self._ticket(number)
        if ticket is not None:
            peer = STRANGER if message.is_foreign else SENDER
            self._announced(ticket, peer, is_meant=message.detail == self._incarnation)
        elif self._ended >> 2 * number & 1:
            self._tell_sender(number, Kind.REFUSE)
        elif number not in self._parked:
            self._parked.append(number)

    def _announced(self, ticket: Ticket, peer: int, *, is_meant: bool) -> None:
        if ticket.peer != NOBODY:
            return
        if not is_meant and Check.INCARNATION in self._rules.checks[Message.OPEN]:
            if peer == SENDER:
                self._tell_sender(ticket.number, Kind.REFUSE)
            self._fail(ticket.session, -1)
            return
        if not is_meant:
            raise Violation(Property.STALE, "it takes an announcement for an earlier incarnation")
        ticket.peer = peer
        self._settle(ticket.session)
        if ticket.session.is_running and ticket.state is TicketState.REGISTERED:
            self._reserved(ticket)

    def _reserved(self, ticket: Ticket) -> None:
        self._advance_ticket(ticket, TicketEvent.OPEN)

    def _on_data(self, message: Signal) -> None:
        ticket = self._takes(message, TicketEvent.DATA, Message.DATA)
        if ticket is None:
            return
        transfer = self._scene.transfers[ticket.number]
        if not self._holds(ticket.session, 2 * ticket.number):
            raise Violation(
                Property.KV,
                f"it writes into pages under ticket {transfer.name} that nothing holds any more",
            )
        if not message.is_foreign:
            ticket.session.kv |= half_of(transfer.begin, transfer.end, message.detail)
        self._advance_ticket(ticket, TicketEvent.DATA)

    def _on_fin(self, message: Signal) -> None:
        ticket = self._takes(message, TicketEvent.FIN, Message.FIN)
        if ticket is None:
            return
        if Check.COMPLETE in self._rules.checks[Message.FIN] and ticket.halves < HALVES:
            self._tell_sender(ticket.number, Kind.REFUSE)
            self._lose(ticket)
            return
        self._advance_ticket(ticket, TicketEvent.FIN)
        self._arrive(ticket)

    def _on_withdraw(self, message: Signal) -> None:
        if message.subject in self._parked and not message.is_foreign:
            self._parked.remove(message.subject)
        ticket = self._takes(message, TicketEvent.SENDER_LOST, Message.WITHDRAW)
        if ticket is not None:
            self._lose(ticket)

    def _takes(self, message: Signal, event: TicketEvent, kind: Message) -> Ticket | None:
        """The ticket, if the table allows the event and the message passes its checks. A driver
        need not remember tickets that have ended; this one does, to ask the table about them."""
        ticket = self._ticket(message.subject)
        if ticket is None:
            if self._ended >> 2 * message.subject & 1:
                self._ask_about_the_dead(event)
            return None
        if (ticket.state, event) not in self._rules.ticket:
            return None
        checks = self._rules.checks[kind]
        if Check.PEER in checks and ticket.peer != (STRANGER if message.is_foreign else SENDER):
            return None
        is_next = message.detail == ticket.halves
        return None if Check.ORDER in checks and not is_next else ticket

    def _ask_about_the_dead(self, event: TicketEvent) -> None:
        transition = self._rules.ticket.get((TicketState.RELEASED, event))
        if transition is not None and Effect.COUNT in transition.effects:
            raise Violation(Property.KV, "it writes into pages that were let go")

    def _arrive(self, ticket: Ticket) -> None:
        """What uses or keeps the ticket has been waiting since the call came."""
        if ticket.state is TicketState.ARRIVED:
            is_committed = self._scene.transfers[ticket.number].is_committed
            event = TicketEvent.COMMIT if is_committed else TicketEvent.USE
            self._advance_ticket(ticket, event)

    def _lose(self, ticket: Ticket) -> None:
        if (ticket.state, TicketEvent.SENDER_LOST) not in self._rules.ticket:
            return
        self._advance_ticket(ticket, TicketEvent.SENDER_LOST)
        if ticket.state is TicketState.RELEASED:
            self._fail(ticket.session, self._scene.transfers[ticket.number].sender)

    def _advance_ticket(self, ticket: Ticket, event: TicketEvent) -> None:
        transition = advance(self._rules.ticket, ticket.state, event)
        ticket.state = transition.state
        for effect in transition.effects:
            self._perform_ticket(effect, ticket)
        if Effect.PUBLISH in transition.effects:
            self._settle(ticket.session)

    def _perform_ticket(self, effect: Effect, ticket: Ticket) -> None:
        match effect:
            case Effect.HOLD:
                self._hold(ticket.session, 2 * ticket.number)
            case Effect.LET_GO:
                self._let_go(ticket.session, 2 * ticket.number)
            case Effect.GRANT:
                self._grant(ticket)
            case Effect.COUNT:
                ticket.halves = min(HALVES, ticket.halves + 1)
            case Effect.ACK:
                self._tell_sender(ticket.number, Kind.ACK, ticket)
            case Effect.PUBLISH:
                ticket.is_shown = True
            case Effect.REFUSE:
                if ticket.peer != NOBODY:
                    self._tell_sender(ticket.number, Kind.REFUSE, ticket)
            case _:
                raise Violation(Property.END, f"'{effect}' is no effect of a ticket")

    def _grant(self, ticket: Ticket) -> None:
        has_it = ticket.session.frontier >= self._scene.transfers[ticket.number].end
        if has_it:
            ticket.halves = HALVES
        self._tell_sender(ticket.number, Kind.GRANT, ticket, int(has_it))

    def _tell_sender(
        self, number: int, kind: Kind, ticket: Ticket | None = None, detail: int = 0
    ) -> None:
        if ticket is None or ticket.peer == SENDER:
            self._letters.append(
                (self._scene.transfers[number].sender, Signal(kind, number, detail))
            )
