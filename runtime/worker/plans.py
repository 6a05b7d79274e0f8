"""The plans on one worker: the engine's sequences, their tickets, their sends and what is told of each,
under one key.

What happens to one of them here is made known to the others; owns how a plan ends on this worker.
Knows no calls, no messages of the transfers and no step loop.
"""

from collections.abc import Callable

from mserve.runtime.engine import events
from mserve.runtime.engine.batching import KvStore
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.sequence import Sequence, SequenceState
from mserve.runtime.errors import EngineFailure, RequestError
from mserve.runtime.messages import RemoteSendCall
from mserve.runtime.transport.base import Transport
from mserve.runtime.worker.journal import Journal
from mserve.runtime.worker.sends import Sends
from mserve.runtime.worker.sessions import Session
from mserve.runtime.worker.ticket import Ticket
from mserve.runtime.worker.tickets import Tickets


class Plans:
    """Joins `engine`, `tickets`, `sends` and `journal`, for which it is the host (`ReceiverHost`,
    `SenderHost`): whoever drives any of them calls `relay` next."""

    def __init__(
        self,
        engine: Engine,
        kv: KvStore,
        transport: Transport,
        *,
        worker: str,
        incarnation: str,
        fingerprint: str,
        unix_s: Callable[[float], float],
        lease_s: float,
        checksum_kv: bool,
    ) -> None:
        self.engine = engine
        self.journal = Journal(unix_s)
        self.sessions = self.journal.sessions
        self.tickets = Tickets(self, kv, transport, incarnation, fingerprint, lease_s)
        self.sends = Sends(self, kv, transport, worker, fingerprint, checksum=checksum_kv)

    # --- ends ----------------------------------------------------------------------------------

    def fail(self, key: str, error: RequestError, step: str, now: float) -> None:
        """Ends the plan here and says why, once."""
        self.engine.cancel(key, now)
        if self._end(key, now) is not None:
            self.journal.failed(key, error, step)

    def contain(self, key: str, now: float) -> None:
        """Ends the plan that a fault of ours concerned; raises AssertionError if pages are lost."""
        self.fail(
            key, EngineFailure("The worker failed at this request; its log says why."), "", now
        )
        self.engine.check_integrity()

    def release(self, names: tuple[str, ...], now: float) -> int:
        """Ends these tickets; returns how many were found. Their plans go on without them."""
        found = [ticket for name in names if (ticket := self.tickets.get(name))]
        for ticket in found:
            self.tickets.release(ticket.name, now)
            self.engine.drop_receive(ticket.key, ticket.name, now)
        self.relay(now)
        return len(found)

    def _end(self, key: str, now: float) -> Session | None:
        self.tickets.end(key, now)
        self.sends.end(key, now)
        return self.sessions.end(key)

    # --- what the engine says ------------------------------------------------------------------

    def relay(self, now: float) -> None:
        """Turns what the engine did into effects on tickets and sends, and into reports."""
        while engine_events := self.engine.drain():
            for event in engine_events:
                self._relay_one(event, now)

    def _relay_one(self, event: events.EngineEvent, now: float) -> None:
        match event:
            case events.Generated():
                self.journal.generated(event, now)
            case events.Reserved():
                self.tickets.reserved(event.key, now)
            case events.StepStarted():
                self.journal.started(event.key, event.step, now, matched=event.matched)
                self._open_send(event.key, event.step, now)
            case events.StepComputed():
                self.journal.computed(event, now)
            case events.SequenceDone():
                self.journal.all_done(event.key, now)
                self._end(event.key, now)
            case events.SequenceFailed():
                self.fail(event.key, event.error, "", now)
            case events.BlocksChanged():
                self.journal.blocks_changed(event)

    def _open_send(self, key: str, step: str, now: float) -> None:
        """The sequence has its pages: only now are others asked to reserve theirs for its KV, so
        that nobody's memory waits for memory."""
        session = self.sessions.get(key)
        call: RemoteSendCall | None = None if session is None else session.unopened.pop(step, None)
        if call is None:
            return
        if call.to:
            self.sends.open(key, call, now)
        else:
            self.sent(key, step, 0, 0, now)

    # --- what tickets and sends ask ------------------------------------------------------------

    def sequence(self, key: str) -> Sequence | None:
        return self.engine.find(key)

    def opened(self, key: str, ticket: str, now: float) -> None:
        self.engine.opened(key, ticket, now)
        sequence = self.engine.find(key)
        if sequence is not None and sequence.state is SequenceState.RUNNING:
            self.tickets.reserved(key, now)

    def arrived(self, key: str, ticket: str, now: float) -> None:
        self.engine.arrived(key, ticket, now)

    def hold(self, key: str, name: str) -> None:
        self.engine.hold(key, name)

    def let_go(self, name: str) -> None:
        self.engine.let_go(name)

    def received(self, ticket: Ticket, now: float) -> None:
        sequence = self.engine.find(ticket.key)
        assert sequence is not None, "a ticket has a living sequence"
        self.journal.received(
            ticket.key,
            ticket.step,
            ticket.opened_s,
            now,
            matched=sequence.num_matched,
            num_tokens=ticket.received_tokens,
            num_bytes=ticket.received_bytes,
        )

    def sent(self, key: str, step: str, num_tokens: int, num_bytes: int, now: float) -> None:
        self.engine.send_done(key, step, now)
        self.journal.sent(key, step, num_tokens, num_bytes, now)
