"""A worker without its processes: engine, tickets and sends of one worker, joined. Sans-IO.

Takes plan calls and what the transport brought, runs nothing itself, and hands out the events that
the HTTP process passes on. Whoever drives it (worker/process.py, or a virtual clock) supplies time.
"""

import logging
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import asdict, replace

from mserve.compiler.protocol import CHECKS, Check, Message, TicketEvent
from mserve.runtime.engine import events
from mserve.runtime.engine.batching import Batch, KvStore, StepOutput
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.sequence import Sequence, SequenceState
from mserve.runtime.errors import EngineFailure, Gone, NoRoom, RequestError, Unavailable
from mserve.runtime.messages import (
    CommitCall,
    PlanCall,
    PrepRecvCall,
    ReleaseCall,
    RemoteSendCall,
    StartGenerateCall,
    StepCall,
)
from mserve.runtime.transport.base import PeerLost, Received, Transport
from mserve.runtime.worker import ipc, wire
from mserve.runtime.worker.admission import check_names, check_transfers, keeps_connection
from mserve.runtime.worker.journal import Journal
from mserve.runtime.worker.sends import Sends
from mserve.runtime.worker.sessions import Session
from mserve.runtime.worker.tickets import Ticket, Tickets

logger = logging.getLogger("mserve.engine")

GIVE_WAY_AFTER_S = 0.25
"""How long a plan waits for a peer's pages before it gives up its own for an older one: most such
waits end by themselves."""


class WorkerService:
    """The microserving calls over one engine (LLM microserving, section 3).

    `unix_s(now)` turns the driver's clock into unix seconds for reports.
    """

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
        lease_s: float = 10.0,
        checksum_kv: bool = False,
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._incarnation = incarnation
        self._journal = Journal(unix_s)
        self._sessions = self._journal.sessions
        self._tickets = Tickets(self, kv, transport, incarnation, fingerprint, lease_s)
        self._sends = Sends(self, kv, transport, worker, fingerprint, checksum=checksum_kv)
        self._hooked: Batch | None = None  # planned, with KV that sends wait for
        self._num_malformed = 0
        self.draining = False

    # --- calls ---------------------------------------------------------------------------------

    def submit(self, call: PlanCall, held: bool, now: float) -> None:
        """Takes a plan call whole, or raises a RequestError and changes nothing."""
        self._relay(now)  # what an earlier plan of this key left must not be taken for this one's
        self._admit(call, now)
        held = held and keeps_connection(call)
        session = self._journal.begin(call, now)
        for step in call.steps:
            if self._sessions.get(call.key) is not session:
                return  # an earlier step has failed already, and the plan with it
            self._begin_step(call, step, held, now)

    def _begin_step(self, call: PlanCall, step: StepCall, held: bool, now: float) -> None:
        match step:
            case PrepRecvCall():
                matched = self._engine.match_length(call.tokens, call.salt)
                self._journal.started(call.key, step.step, now, matched=min(matched, step.end))
                self._tickets.register(call.key, step, held, now)
            case RemoteSendCall():
                session = self._sessions.get(call.key)
                assert session is not None, "the plan has just begun"
                session.unopened[step.step] = step
                self._use(step.uses, held, now)
            case StartGenerateCall():
                self._use(step.uses, held, now)
            case CommitCall():
                if held:
                    self._tickets.hold((step.ticket,), now, held=True)
                self._tickets.want(step.ticket, TicketEvent.COMMIT, now)
            case ReleaseCall():
                self._journal.finished(call.key, step.step, now)
                self.release((step.ticket,), now)

    def _admit(self, call: PlanCall, now: float) -> None:
        if self.draining and self._sessions.get(call.key) is None:
            raise Unavailable("The worker is draining and takes no new plans.", retry_after_s=1.0)
        check_names(call)
        for check in CHECKS[Message.PLAN]:
            self._check(check, call)
        check_transfers(call, self._tickets, self._sends, self._transport.address)
        self._engine.submit(call, now)

    def _check(self, check: Check, call: PlanCall) -> None:
        match check:
            case Check.INCARNATION:
                if call.incarnation not in ("", self._incarnation):
                    raise Gone("The call means an earlier incarnation of this worker.")
            case Check.NEWEST:
                self._sessions.check_newest(call)
            case Check.FRESH:
                self._sessions.check_fresh(call)
            case _:
                raise AssertionError(f"'{check}' is no check of a plan call")

    def _use(self, names: tuple[str, ...], held: bool, now: float) -> None:
        if held:
            self._tickets.hold(names, now, held=True)
        for name in names:
            self._tickets.want(name, TicketEvent.USE, now)

    def cancel(self, key: str, now: float) -> None:
        """Ends a plan here at once; idempotent."""
        self._relay(now)
        self.fail(key, Gone("The plan was cancelled at this worker."), "", now)

    def stop_generating(self, key: str, now: float) -> None:
        """The answer's text is complete: the engine ends it with its next token."""
        self._engine.finish_early(key, now)

    def release(self, names: tuple[str, ...], now: float) -> int:
        """Ends these tickets; returns how many were found. Their plans go on without them."""
        found = [ticket for name in names if (ticket := self._tickets.get(name))]
        for ticket in found:
            self._tickets.release(ticket.name, now)
            self._engine.drop_receive(ticket.key, ticket.name, now)
        self._relay(now)
        return len(found)

    def renew(self, names: tuple[str, ...], now: float) -> int:
        return self._tickets.hold(names, now)

    def greet(self, peers: Iterable[bytes]) -> None:
        """Connects to workers that requests may send KV to."""
        for peer in peers:
            self._transport.send(peer, wire.encode(wire.Hello()))

    # --- the step loop -------------------------------------------------------------------------

    def plan(self, now: float) -> Batch | None:
        batch = self._engine.plan(now)
        self._relay(now)
        if self._give_way(now) and batch is None:
            batch = self._engine.plan(now)
            self._relay(now)
        self._hooked = batch if batch is not None and self._sends.begin_step(batch) else None
        return batch

    def _give_way(self, now: float) -> bool:
        """Ends plans that hold pages here while they wait for pages elsewhere, if older plans wait
        for theirs; the router makes them anew. True if there were any.

        Without it two plans could wait for each other for ever. Plan ids sort by age, and on every
        worker alike, so in any circle of waiting there is one who gives way (wound-wait: Rosenkrantz
        et al., System Level Concurrency Control for Distributed Database Systems, 1978).
        """
        starved = self._engine.starved()
        if not starved:
            return False
        oldest, since_s = min(starved), now - GIVE_WAY_AFTER_S
        younger = {
            key: step
            for key, step in (*self._tickets.unopened(since_s), *self._sends.ungranted(since_s))
            if key > oldest and (found := self._engine.find(key)) is not None and found.is_stalled
        }
        for key, step in younger.items():
            detail = (
                "The plan waited for pages of two workers, and an older one needed those it had."
            )
            self.fail(key, NoRoom(detail, retry_after_s=0.1), step, now)
        return bool(younger)

    @property
    def wants_layers(self) -> bool:
        """Sends wait for KV of the batch planned last: call `layer_done` at every layer."""
        return self._hooked is not None

    def layer_done(self, layer: int, now: float) -> None:
        self._sends.layer_done(layer, now)

    def commit(self, batch: Batch, output: StepOutput, now: float) -> None:
        self._engine.commit(batch, output, now)
        self._end_step(batch)
        self._relay(now)

    def abandon(self, batch: Batch, errors: dict[str, RequestError], now: float) -> None:
        """The runner failed: the plans in `errors` end, for the others the step is done again."""
        self._engine.abandon(batch, errors)
        self._end_step(batch)
        self._relay(now)

    def _end_step(self, batch: Batch) -> None:
        if batch is self._hooked:
            self._hooked = None
            self._sends.end_step()

    def progress(self, now: float) -> None:
        """Moves KV on and handles what arrived."""
        for event in self._transport.poll():
            if isinstance(event, Received):
                self._receive(event, now)
            else:
                self._peer_lost(event, now)
        self._relay(now)
        self._sends.pump(now)

    def expire(self, now: float) -> None:
        self._tickets.expire(now)
        self._sends.expire(now)

    def drain(self) -> list[ipc.Event]:
        """What happened since the last call, for the HTTP process."""
        return self._journal.drain()

    # --- observation ---------------------------------------------------------------------------

    def stats(self) -> ipc.Stats:
        tickets, draining = len(self._tickets), self.draining
        stats = replace(self._engine.stats(), tickets=tickets, draining=draining)
        num_corrupted = self._tickets.num_corrupted
        return ipc.Stats(stats, dropped_messages=self.num_dropped, corrupted_messages=num_corrupted)

    @property
    def num_dropped(self) -> int:
        """Messages of other workers that were late, foreign, repeated or malformed."""
        return self._tickets.num_dropped + self._num_malformed

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    @property
    def num_sends(self) -> int:
        return len(self._sends)

    def match(self, tokens: bytes, salt: bytes) -> int:
        """Tokens of the longest cached prefix; changes nothing."""
        return self._engine.match_length(tokens, salt)

    def state(self) -> dict[str, object]:
        """What is going on here, for people: `GET /v1/microserving/state`."""
        return {
            "plans": self._sessions.keys(),
            "tickets": self._tickets.describe(),
            "sends": len(self._sends),
            "draining": self.draining,
            "kv": asdict(self._engine.stats()),
            "dropped_messages": self.num_dropped,
        }

    def snapshot(self, request: int) -> ipc.Snapshot:
        blocks = tuple(self._engine.cache.snapshot())
        return ipc.Snapshot(request, self._journal.block_sequence, blocks)

    # --- what tickets and sends ask ------------------------------------------------------------

    def sequence(self, key: str) -> Sequence | None:
        return self._engine.find(key)

    def opened(self, key: str, ticket: str, now: float) -> None:
        self._engine.opened(key, ticket, now)
        sequence = self._engine.find(key)
        if sequence is not None and sequence.state is SequenceState.RUNNING:
            self._tickets.reserved(key, now)

    def arrived(self, key: str, ticket: str, now: float) -> None:
        self._engine.arrived(key, ticket, now)

    def hold(self, key: str, name: str) -> None:
        self._engine.hold(key, name)

    def let_go(self, name: str) -> None:
        self._engine.let_go(name)

    def received(self, ticket: Ticket, now: float) -> None:
        sequence = self._engine.find(ticket.key)
        assert sequence is not None, "a ticket has a living sequence"
        self._journal.received(
            ticket.key,
            ticket.step,
            ticket.opened_s,
            now,
            matched=sequence.num_matched,
            num_tokens=ticket.received_tokens,
            num_bytes=ticket.received_bytes,
        )

    def sent(self, key: str, step: str, num_tokens: int, num_bytes: int, now: float) -> None:
        self._engine.send_done(key, step, now)
        self._journal.sent(key, step, num_tokens, num_bytes, now)

    def fail(self, key: str, error: RequestError, step: str, now: float) -> None:
        """Ends the plan here and says why, once."""
        self._engine.cancel(key, now)
        if self._end(key, now) is not None:
            self._journal.failed(key, error, step)

    def contain(self, key: str, now: float) -> None:
        """Ends the plan that a fault of ours concerned; raises AssertionError if pages are lost."""
        self.fail(
            key, EngineFailure("The worker failed at this request; its log says why."), "", now
        )
        self._engine.check_integrity()

    # --- inside --------------------------------------------------------------------------------

    def _receive(self, event: Received, now: float) -> None:
        try:
            message = wire.decode(event.header)
        except msgspec.DecodeError:
            self._num_malformed += 1
            return
        try:
            self._handle(event, message, now)
        except Exception:
            logger.exception("a message of another worker failed: %s", type(message).__name__)
            self.contain(self._key_of(getattr(message, "ticket", "")), now)

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

    def _peer_lost(self, event: PeerLost, now: float) -> None:
        self._tickets.peer_lost(event.peer, event.reason, now)
        self._sends.peer_lost(event.peer, event.reason, now)

    def _relay(self, now: float) -> None:
        """Turns what the engine did into effects on tickets and events for the HTTP process."""
        while engine_events := self._engine.drain():
            for event in engine_events:
                self._relay_one(event, now)

    def _relay_one(self, event: events.EngineEvent, now: float) -> None:
        match event:
            case events.Generated():
                self._journal.generated(event, now)
            case events.Reserved():
                self._tickets.reserved(event.key, now)
            case events.StepStarted():
                self._journal.started(event.key, event.step, now, matched=event.matched)
                self._open_send(event.key, event.step, now)
            case events.StepComputed():
                self._journal.computed(event, now)
            case events.SequenceDone():
                self._journal.all_done(event.key, now)
                self._end(event.key, now)
            case events.SequenceFailed():
                self.fail(event.key, event.error, "", now)
            case events.BlocksChanged():
                self._journal.blocks_changed(event)

    def _open_send(self, key: str, step: str, now: float) -> None:
        """The sequence has its pages: only now are others asked to reserve theirs for its KV, so
        that nobody's memory waits for memory."""
        session = self._sessions.get(key)
        call = None if session is None else session.unopened.pop(step, None)
        if call is None:
            return
        if call.to:
            self._sends.open(key, call, now)
        else:
            self.sent(key, step, 0, 0, now)

    def _end(self, key: str, now: float) -> Session | None:
        self._tickets.end(key, now)
        self._sends.end(key, now)
        return self._sessions.end(key)
