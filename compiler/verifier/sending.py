"""The sending side at a worker of an exploration; mirrors runtime/worker/sends.py."""

from mserve.compiler.protocol import (
    Check,
    Effect,
    Message,
    SendEvent,
    SendState,
    advance,
)
from mserve.compiler.verifier.desk import Desk
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.signals import Kind, Signal
from mserve.compiler.verifier.views import (
    HALVES,
    Send,
    half_of,
)


class Sending(Desk):
    """What happens to sends."""

    def _on_grant(self, message: Signal) -> None:
        send = self._takes_send(message, SendEvent.GRANT, Message.GRANT)
        if send is not None:
            send.halves = HALVES if message.detail else 0
            self._advance_send(send, SendEvent.GRANT)
            self._pump(send)

    def _on_ack(self, message: Signal) -> None:
        send = self._takes_send(message, SendEvent.ACK, Message.ACK)
        if send is not None:
            self._advance_send(send, SendEvent.ACK)
            self._settle(send.session)

    def _on_refuse(self, message: Signal) -> None:
        send = self._takes_send(message, SendEvent.REFUSE, Message.REFUSE)
        if send is not None:
            self._give_up(send, SendEvent.REFUSE)

    def _takes_send(self, message: Signal, event: SendEvent, kind: Message) -> Send | None:
        send = self._send(message.subject)
        if send is None or (send.state, event) not in self._rules.send:
            return None
        is_checked = Check.PEER in self._rules.checks[kind]
        return None if is_checked and message.is_foreign else send

    def push(self, number: int) -> None:
        """The next message of a granted send goes out, if what it says is computed."""
        send = self._send(number)
        if send is not None and send.state in (SendState.GRANTED, SendState.SENDING):
            self._push(send)

    def _pump(self, send: Send) -> None:
        """Sends what is computed (sends.pump); then, that this was all."""
        while self._is_prompt and send.state in (SendState.GRANTED, SendState.SENDING):
            if not self._push(send):
                return

    def _push(self, send: Send) -> bool:
        session, transfer = send.session, self._scene.transfers[send.number]
        if send.halves == HALVES:
            self._advance_send(send, SendEvent.FIN)
            return True
        half = half_of(transfer.begin, transfer.end, send.halves)
        if half >= 1 << session.frontier:
            return False
        self._check_read(session, half, f"sends it under ticket {transfer.name}")
        if not self._holds(session, 2 * send.number + 1):
            raise Violation(
                Property.KV,
                f"it sends pages under ticket {transfer.name} that nothing holds any more",
            )
        self._advance_send(send, SendEvent.DATA)
        self._tell_receiver(send, Kind.DATA, send.halves)
        send.halves += 1
        return True

    def _give_up(self, send: Send, event: SendEvent) -> None:
        self._advance_send(send, event)
        self._fail(send.session, self._scene.transfers[send.number].receiver)

    def _advance_send(self, send: Send, event: SendEvent) -> None:
        transition = advance(self._rules.send, send.state, event)
        send.state = transition.state
        for effect in transition.effects:
            match effect:
                case Effect.HOLD:
                    self._hold(send.session, 2 * send.number + 1)
                case Effect.LET_GO:
                    self._let_go(send.session, 2 * send.number + 1)
                case Effect.ANNOUNCE:
                    self._tell_receiver(send, Kind.OPEN, 1)  # all plans mean the first incarnation
                case Effect.FINISH:
                    self._tell_receiver(send, Kind.FIN)
                case Effect.WITHDRAW:
                    self._tell_receiver(send, Kind.WITHDRAW)
                case _:
                    raise Violation(Property.END, f"'{effect}' is no effect of a send")

    def _tell_receiver(self, send: Send, kind: Kind, detail: int = 0) -> None:
        receiver = self._scene.transfers[send.number].receiver
        self._letters.append((receiver, Signal(kind, send.number, detail)))
