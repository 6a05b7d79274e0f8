"""The sending side of KV transfers: cursors over a sequence's pages, layer by layer.

Lives in the engine process. A send announces itself when its plan starts and computes meanwhile;
once granted, KV goes out as soon as a layer has it, as far as the transport has staging slots, so
compute never waits for the wire. Every change goes through `compiler.protocol.SEND`.

    order of messages of one ticket   for each piece [a, b): layer 0, 1, ..., L-1
    a piece ends where layer 0 is computed when the piece begins, or at the size of a message
"""

from math import inf

from xxhash import xxh3_64_intdigest

from mserve.compiler.protocol import (
    CHECKS,
    SEND,
    Check,
    Effect,
    Message,
    SendEvent,
    SendState,
    advance,
)
from mserve.runtime.engine.batching import Batch, KvStore, StepOutOfMemory
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import BY_KIND, EngineFailure, NoRoom, RequestError, WorkerLost
from mserve.runtime.messages import Receiver, RemoteSendCall
from mserve.runtime.transport.base import MAX_PAYLOAD_BYTES, Transport
from mserve.runtime.worker import wire
from mserve.runtime.worker.hosts import SenderHost
from mserve.runtime.worker.outgoing import Outgoing

_ENDED = (SendState.ACKNOWLEDGED, SendState.ABORTED)


class Sends:
    """All sends of one engine process."""

    def __init__(
        self,
        host: SenderHost,
        kv: KvStore,
        transport: Transport,
        worker: str,
        fingerprint: str,
        *,
        checksum: bool = False,
        grant_timeout_s: float = 30.0,
        max_message_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._host = host
        self._kv = kv
        self._transport = transport
        self._worker = worker
        self._fingerprint = fingerprint
        self._makes_checksums = checksum
        self._timeout_s = grant_timeout_s
        self._piece_tokens = max(1, max_message_bytes // kv.bytes_per_token_layer)
        self._outgoing: dict[str, Outgoing] = {}
        self._in_flight: dict[str, int] = {}  # key -> chunk end of the running batch
        self._layers_done = 0  # of the running batch

    def __len__(self) -> int:
        return len(self._outgoing)

    def knows(self, ticket: str) -> bool:
        return ticket in self._outgoing

    def key_of(self, ticket: str) -> str:
        """The plan that sends under this ticket; "" if none does."""
        outgoing = self._outgoing.get(ticket)
        return "" if outgoing is None else outgoing.key

    # --- the plan's side -----------------------------------------------------------------------

    def open(self, key: str, call: RemoteSendCall, now: float) -> None:
        """Announces the range to every receiver."""
        for receiver in call.to:
            self._announce(key, call, receiver, now)

    def _announce(self, key: str, call: RemoteSendCall, receiver: Receiver, now: float) -> None:
        outgoing = self._outgoing[receiver.ticket] = Outgoing(
            key=key,
            step=call.step,
            ticket=receiver.ticket,
            peer=receiver.address,
            worker=receiver.worker,
            incarnation=receiver.incarnation,
            begin=call.begin,
            end=call.end,
            deadline_s=now + self._timeout_s,
        )
        self._advance(outgoing, SendEvent.OPEN)

    def end(self, key: str, now: float) -> None:
        """The plan is over at this worker: whatever still goes out is aborted."""
        for outgoing in [o for o in self._outgoing.values() if o.key == key]:
            if outgoing.state not in _ENDED:
                self._advance(outgoing, SendEvent.CANCEL, "Its plan was cancelled.")
            del self._outgoing[outgoing.ticket]

    def ungranted(self, before_s: float) -> list[tuple[str, str]]:
        """(plan, step) of those announced before this whose receiver has no pages yet."""
        before_s += self._timeout_s
        opening = (
            o
            for o in self._outgoing.values()
            if o.state is SendState.OPENING and o.deadline_s <= before_s
        )
        return [(outgoing.key, outgoing.step) for outgoing in opening]

    # --- the receivers' side -------------------------------------------------------------------

    def on_grant(self, peer: bytes, message: wire.Grant, now: float) -> None:
        outgoing = self._takes(SendEvent.GRANT, Message.GRANT, peer, message.ticket)
        if outgoing is not None:
            outgoing.begin = outgoing.position = min(message.begin, outgoing.end)
            outgoing.deadline_s = now + self._timeout_s
            self._advance(outgoing, SendEvent.GRANT)
            self._flush(outgoing)

    def on_ack(self, peer: bytes, message: wire.Ack, now: float) -> None:
        outgoing = self._takes(SendEvent.ACK, Message.ACK, peer, message.ticket)
        if outgoing is None:
            return
        self._advance(outgoing, SendEvent.ACK)
        copies = [
            o for o in self._outgoing.values() if o.key == outgoing.key and o.step == outgoing.step
        ]
        if all(copy.state in _ENDED for copy in copies):
            num_tokens = sum(copy.end - copy.begin for copy in copies)
            num_bytes = sum(copy.sent_bytes for copy in copies)
            for copy in copies:
                del self._outgoing[copy.ticket]
            self._host.sent(outgoing.key, outgoing.step, num_tokens, num_bytes, now)

    def on_refuse(self, peer: bytes, message: wire.Refuse, now: float) -> None:
        error = BY_KIND.get(message.kind, EngineFailure)(message.detail)
        outgoing = self._takes(SendEvent.REFUSE, Message.REFUSE, peer, message.ticket)
        if outgoing is not None:
            self._give_up(outgoing, SendEvent.REFUSE, error, now)

    def peer_lost(self, peer: bytes, reason: str, now: float) -> None:
        for outgoing in [o for o in self._outgoing.values() if o.peer == peer]:
            detail = f"The connection to {outgoing.worker} is gone: {reason}"
            if outgoing.state not in _ENDED:
                self._give_up(outgoing, SendEvent.RECEIVER_LOST, WorkerLost(detail), now)

    def expire(self, now: float) -> None:
        """Gives up on receivers from which nothing was heard for too long."""
        for outgoing in [o for o in self._outgoing.values() if o.deadline_s <= now]:
            if outgoing.ticket not in self._outgoing:
                continue  # its plan ended with another of these
            if outgoing.state is SendState.OPENING:
                detail = f"{outgoing.worker} had no room for the KV within {self._timeout_s:g} s."
                no_room = NoRoom(detail, retry_after_s=1.0)
                self._give_up(outgoing, SendEvent.EXPIRE, no_room, now)
            elif outgoing.state not in _ENDED:
                detail = f"{outgoing.worker} took no KV for {self._timeout_s:g} s."
                self._give_up(outgoing, SendEvent.EXPIRE, WorkerLost(detail), now)
                self._transport.close(outgoing.peer)

    # --- the model's side ----------------------------------------------------------------------

    def begin_step(self, batch: Batch) -> bool:
        """Notes which positions the batch computes. True if a send waits for any of them."""
        sending = {outgoing.key for outgoing in self._outgoing.values()}
        self._in_flight = {
            chunk.sequence.key: chunk.end
            for chunk in batch.prefill
            if chunk.sequence.key in sending
        }
        self._layers_done = 0
        return bool(self._in_flight)

    def layer_done(self, layer: int, now: float) -> None:
        self._layers_done = layer + 1
        self.pump(now)

    def end_step(self) -> None:
        self._in_flight = {}
        self._layers_done = 0

    def pump(self, now: float) -> None:
        """Sends what is computed, as far as there are slots."""
        for outgoing in list(self._outgoing.values()):
            if outgoing.state in (SendState.GRANTED, SendState.SENDING):
                self._pump_one(outgoing, now)

    def _pump_one(self, outgoing: Outgoing, now: float) -> None:
        try:
            self._send_pieces(outgoing, now)
        except StepOutOfMemory as error:
            detail = f"The device had no memory left to read KV that was to be sent: {error}"
            no_room = NoRoom(detail, retry_after_s=0.1)  # not for being large: it is a message's
            self._host.fail(outgoing.key, no_room, outgoing.step, now)

    def _send_pieces(self, outgoing: Outgoing, now: float) -> None:
        sequence = self._host.sequence(outgoing.key)
        assert sequence is not None, "a send ends with its sequence, not after it"
        while outgoing.position < outgoing.end:
            if outgoing.layer == 0:
                limit = min(self._computed(sequence, 0), outgoing.end)
                outgoing.piece_end = min(limit, outgoing.position + self._piece_tokens)
            begin, end = outgoing.position, outgoing.piece_end
            if end <= begin or self._computed(sequence, outgoing.layer) < end:
                outgoing.deadline_s = now + self._timeout_s  # it is the model that we wait for
                return
            if not self._send_piece(outgoing, sequence):
                return
            outgoing.deadline_s = now + self._timeout_s
        self._flush(outgoing)

    def _computed(self, sequence: Sequence, layer: int) -> int:
        """Positions of `layer` whose KV is in the pages."""
        if layer < self._layers_done:
            return self._in_flight.get(sequence.key, sequence.num_computed)
        return sequence.num_computed

    def _send_piece(self, outgoing: Outgoing, sequence: Sequence) -> bool:
        """One layer of the current piece. False if the transport has no slot for it now."""
        begin, end = outgoing.position, outgoing.piece_end
        num_bytes = (end - begin) * self._kv.bytes_per_token_layer
        slot = self._transport.stage(outgoing.peer, num_bytes)
        if slot is None:
            return False
        try:
            self._kv.read(sequence.pages, outgoing.layer, begin, end, slot.view)
        except BaseException:
            slot.release()
            raise
        checksum = xxh3_64_intdigest(slot.view) if self._makes_checksums else None
        data = wire.Data(outgoing.ticket, outgoing.layer, begin, end, checksum)
        self._transport.send(outgoing.peer, wire.encode(data), slot)
        self._advance(outgoing, SendEvent.DATA)
        outgoing.sent_bytes += num_bytes
        outgoing.layer += 1
        if outgoing.layer == self._kv.num_layers:
            outgoing.layer, outgoing.position = 0, end
        return True

    def _flush(self, outgoing: Outgoing) -> None:
        if outgoing.position >= outgoing.end and outgoing.state is not SendState.FLUSHED:
            self._advance(outgoing, SendEvent.FIN)

    # --- inside --------------------------------------------------------------------------------

    def _takes(self, event: SendEvent, kind: Message, peer: bytes, ticket: str) -> Outgoing | None:
        """The send, if the table allows the event and the message passes its checks."""
        outgoing = self._outgoing.get(ticket)
        if outgoing is None or (outgoing.state, event) not in SEND:
            return None
        assert set(CHECKS[kind]) <= {Check.PEER}, "a receiver's message is known by its peer"
        return outgoing if Check.PEER not in CHECKS[kind] or outgoing.peer == peer else None

    def _give_up(
        self, outgoing: Outgoing, event: SendEvent, error: RequestError, now: float
    ) -> None:
        self._advance(outgoing, event, error.detail)
        self._host.fail(outgoing.key, error, outgoing.step, now)

    def _advance(self, outgoing: Outgoing, event: SendEvent, detail: str = "") -> None:
        transition = advance(SEND, outgoing.state, event)
        outgoing.state = transition.state
        for effect in transition.effects:
            match effect:
                case Effect.HOLD:
                    self._host.hold(outgoing.key, outgoing.ticket)
                case Effect.ANNOUNCE:
                    self._tell(outgoing, self._announcement(outgoing))
                case Effect.FINISH:
                    self._tell(outgoing, wire.Fin(outgoing.ticket))
                case Effect.WITHDRAW:
                    self._tell(outgoing, wire.Withdraw(outgoing.ticket, detail))
                case Effect.LET_GO:
                    self._host.let_go(outgoing.ticket)
                    outgoing.deadline_s = inf
                case _:
                    raise AssertionError(f"'{effect}' is no effect of a send")

    def _announcement(self, outgoing: Outgoing) -> wire.Open:
        return wire.Open(
            outgoing.ticket,
            self._worker,
            outgoing.incarnation,
            self._fingerprint,
            outgoing.begin,
            outgoing.end,
        )

    def _tell(self, outgoing: Outgoing, message: wire.ToReceiver) -> None:
        self._transport.send(outgoing.peer, wire.encode(message))
