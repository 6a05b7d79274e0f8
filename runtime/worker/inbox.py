"""What other workers say about transfers, handed to the tickets and sends that it is for.

Owns the decoding, and what becomes of a message that cannot be read or at which we fail. Knows no
rule of the transfers.
"""

import logging

import msgspec

from mserve.runtime.engine.batching import DeviceLost
from mserve.runtime.transport.base import PeerLost, Received, TransportEvent
from mserve.runtime.worker import wire
from mserve.runtime.worker.plans import Plans

logger = logging.getLogger("mserve.engine")


class Inbox:
    """`num_malformed` counts what was no message."""

    def __init__(self, plans: Plans) -> None:
        self.num_malformed = 0
        self._plans = plans
        self._tickets = plans.tickets
        self._sends = plans.sends

    def take(self, event: TransportEvent, now: float) -> None:
        if isinstance(event, PeerLost):
            self._tickets.peer_lost(event.peer, event.reason, now)
            self._sends.peer_lost(event.peer, event.reason, now)
        else:
            self._receive(event, now)

    def _receive(self, event: Received, now: float) -> None:
        try:
            message = wire.decode(event.header)
        except msgspec.DecodeError:
            self.num_malformed += 1
            return
        try:
            self._handle(event, message, now)
        except DeviceLost:  # it concerns every plan
            raise
        except Exception:
            logger.exception("a message of another worker failed: %s", type(message).__name__)
            self._plans.contain(self._key_of(getattr(message, "ticket", "")), now)

    def _key_of(self, ticket: str) -> str:
        found = self._tickets.get(ticket)
        return found.key if found is not None else self._sends.key_of(ticket)

    def _handle(self, event: Received, message: wire.TransferMessage, now: float) -> None:
        match message:
            case wire.Data():
                self._tickets.on_data(event.peer, message, event.payload, now)
            case wire.Hello():
                pass
            case wire.Open():
                self._tickets.on_open(event.peer, message, now)
            case wire.Fin():
                self._tickets.on_fin(event.peer, message, now)
            case wire.Withdraw():
                self._tickets.on_withdraw(event.peer, message, now)
            case wire.Grant():
                self._sends.on_grant(event.peer, message, now)
            case wire.Ack():
                self._sends.on_ack(event.peer, message, now)
            case wire.Refuse():
                self._sends.on_refuse(event.peer, message, now)
