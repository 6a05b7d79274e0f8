"""A worker without its processes: the microserving calls and the step loop over its plans. Sans-IO.

Takes plan calls and what the transport brought, runs nothing itself, and hands out the events that
the HTTP process passes on. Whoever drives it (worker/process.py, or a virtual clock) supplies time.
"""

from collections.abc import Callable, Iterable

from msgspec.structs import asdict, replace

from mserve.compiler.protocol import CHECKS, Check, Message, TicketEvent
from mserve.runtime.engine.batching import Batch, KvStore, StepOutput
from mserve.runtime.engine.engine import Engine
from mserve.runtime.errors import Gone, NoRoom, RequestError, Unavailable
from mserve.runtime.messages import (
    CommitCall,
    PlanCall,
    PrepRecvCall,
    ReleaseCall,
    RemoteSendCall,
    StartGenerateCall,
    StepCall,
)
from mserve.runtime.transport.base import Transport
from mserve.runtime.worker import ipc, wire
from mserve.runtime.worker.admission import check_names, check_transfers, keeps_connection
from mserve.runtime.worker.giving_way import who_gives_way
from mserve.runtime.worker.inbox import Inbox
from mserve.runtime.worker.plans import Plans


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
        self._plans = Plans(
            engine,
            kv,
            transport,
            worker=worker,
            incarnation=incarnation,
            fingerprint=fingerprint,
            unix_s=unix_s,
            lease_s=lease_s,
            checksum_kv=checksum_kv,
        )
        self._engine = engine
        self._tickets = self._plans.tickets
        self._sends = self._plans.sends
        self._journal = self._plans.journal
        self._sessions = self._plans.sessions
        self._inbox = Inbox(self._plans)
        self._transport = transport
        self._incarnation = incarnation
        self._hooked: Batch | None = None  # planned, with KV that sends wait for
        self.draining = False

    # --- calls ---------------------------------------------------------------------------------

    def submit(self, call: PlanCall, held: bool, now: float) -> None:
        """Takes a plan call whole, or raises a RequestError and changes nothing."""
        # What an earlier plan of this key left must not be taken for this one's.
        self._plans.relay(now)
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
                matched = self._engine.found_length(call.key)
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
        self._plans.relay(now)
        self._plans.fail(key, Gone("The plan was cancelled at this worker."), "", now)

    def stop_generating(self, key: str, now: float) -> None:
        """The answer's text is complete: the engine ends it with its next token."""
        self._engine.finish_early(key, now)

    def contain(self, key: str, now: float) -> None:
        """Ends the plan that a fault of ours concerned; raises AssertionError if pages are lost."""
        self._plans.contain(key, now)

    def release(self, names: tuple[str, ...], now: float) -> int:
        """Ends these tickets; returns how many were found. Their plans go on without them."""
        return self._plans.release(names, now)

    def renew(self, names: tuple[str, ...], now: float) -> int:
        return self._tickets.hold(names, now)

    def greet(self, peers: Iterable[bytes]) -> None:
        """Connects to workers that requests may send KV to."""
        for peer in peers:
            self._transport.send(peer, wire.encode(wire.Hello()))

    # --- the step loop -------------------------------------------------------------------------

    def plan(self, now: float) -> Batch | None:
        batch = self._engine.plan(now)
        self._plans.relay(now)
        if self._give_way(now) and batch is None:
            batch = self._engine.plan(now)
            self._plans.relay(now)
        self._hooked = batch if batch is not None and self._sends.begin_step(batch) else None
        return batch

    def _give_way(self, now: float) -> bool:
        """Ends plans that must give way; the router makes them anew. True if there were any."""
        younger = who_gives_way(self._plans, now)
        for key, step in younger.items():
            detail = (
                "The plan waited for pages of two workers, and an older one needed those it had."
            )
            self._plans.fail(key, NoRoom(detail, retry_after_s=0.1), step, now)
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
        self._plans.relay(now)

    def abandon(self, batch: Batch, errors: dict[str, RequestError], now: float) -> None:
        """The runner failed: the plans in `errors` end, for the others the step is done again."""
        self._engine.abandon(batch, errors)
        self._end_step(batch)
        self._plans.relay(now)

    def _end_step(self, batch: Batch) -> None:
        if batch is self._hooked:
            self._hooked = None
            self._sends.end_step()

    def progress(self, now: float) -> None:
        """Moves KV on and handles what arrived."""
        for event in self._transport.poll():
            self._inbox.take(event, now)
        self._plans.relay(now)
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
        return self._tickets.num_dropped + self._inbox.num_malformed

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
