"""One ticket: a range of a prompt that a sender may write, and which of its messages count.

Functions of values; tickets.py changes tickets and answers.
"""

from dataclasses import dataclass, field

from mserve.compiler.protocol import CHECKS, Check, Message, TicketEvent, TicketState
from mserve.runtime.errors import Gone, RequestError, Unprocessable
from mserve.runtime.worker import wire


@dataclass(slots=True, eq=False)
class Ticket:
    """`[begin, end)` of a sequence's prompt, to be written by one sender."""

    name: str
    key: str
    step: str
    begin: int
    end: int
    registered_s: float
    deadline_s: float  # inf while an HTTP call holds the plan
    state: TicketState = TicketState.REGISTERED
    wanted: TicketEvent | None = None  # USE or COMMIT, as soon as everything arrived
    peer: bytes | None = None
    granted_begin: int = -1
    frontier: list[int] = field(default_factory=list)  # per layer: positions below are written
    opened_s: float = 0.0
    received_bytes: int = 0

    @property
    def received_tokens(self) -> int:
        return max(0, self.end - self.granted_begin)


@dataclass(frozen=True, slots=True)
class Identity:
    """What senders must mean: this incarnation of the worker, and its layout of KV."""

    incarnation: str
    fingerprint: str


def failed_check(
    kind: Message, ticket: Ticket, peer: bytes, message: wire.ToReceiver, receiver: Identity
) -> Check | None:
    """The first check of the protocol that the message does not pass."""
    for check in CHECKS[kind]:
        if not _passes(check, ticket, peer, message, receiver):
            return check
    return None


def _passes(
    check: Check, ticket: Ticket, peer: bytes, message: wire.ToReceiver, receiver: Identity
) -> bool:
    match check, message:
        case Check.PEER, _:
            return ticket.peer == peer
        case Check.INCARNATION, wire.Open():
            return message.incarnation in ("", receiver.incarnation)
        case Check.LAYOUT, wire.Open():
            return message.fingerprint == receiver.fingerprint
        case Check.RANGE, wire.Open():
            return (message.begin, message.end) == (ticket.begin, ticket.end)
        case Check.ORDER, wire.Data():
            known = 0 <= message.layer < len(ticket.frontier)
            at = ticket.frontier[message.layer] if known else -1
            return at == message.begin < message.end <= ticket.end
        case Check.COMPLETE, wire.Fin():
            return all(at >= ticket.end for at in ticket.frontier)
    raise AssertionError(f"'{check}' is no check of a {type(message).__name__}")


def mismatch(failed: Check, ticket: Ticket, message: wire.Open, receiver: Identity) -> RequestError:
    """Why an announcement does not fit the ticket."""
    if failed is Check.INCARNATION:
        return Gone("The plan means an earlier incarnation of this worker.")
    if failed is Check.LAYOUT:
        return Unprocessable(
            f"KV layouts differ: {message.sender} has {message.fingerprint}, "
            f"this worker has {receiver.fingerprint}."
        )
    return Unprocessable(
        f"The ticket is for [{ticket.begin}, {ticket.end}), "
        f"its sender has [{message.begin}, {message.end})."
    )
