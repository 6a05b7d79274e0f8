"""The one transition table of tickets and steps: drives the worker and the executor, is explored by the verifier.

A *ticket* is the receiving side of one KV range; a *send* its sending side; a *step* one sub-request
as the executor sees it. Each is a small state machine; whoever drives one calls `advance` and then
performs the transition's effects, in order. There is no other place where these rules are written.

    ticket  registered -> reserved -> receiving -> arrived -> in_use -> released
                                                          \\-> cached (commit)
    send    opening -> granted -> sending -> flushed -> acknowledged
    step    pending -> running -> done | failed | cancelled
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class TicketState(StrEnum):
    REGISTERED = "registered"  # named by a plan; owns no pages
    RESERVED = "reserved"  # all pages allocated, sender may write
    RECEIVING = "receiving"  # some bytes are there; invisible to everyone else
    ARRIVED = "arrived"  # every layer of every token counted, and the sender's FIN came
    IN_USE = "in_use"  # the plan's own sequence reads it
    CACHED = "cached"  # kept as cache without a sequence (replicate); final
    RELEASED = "released"  # owns nothing; final


class TicketEvent(StrEnum):
    OPEN = "open"  # the sender announced itself and the pages could be reserved
    DATA = "data"  # one (layer, chunk) was copied into the pages
    FIN = "fin"  # the sender completed every send, and all is counted
    USE = "use"
    COMMIT = "commit"
    RELEASE = "release"  # end of the plan, cancel, or a release step
    EXPIRE = "expire"  # the lease ran out
    SENDER_LOST = "sender_lost"


class SendState(StrEnum):
    OPENING = "opening"  # OPEN sent; computing meanwhile
    GRANTED = "granted"  # the receiver owns pages for it
    SENDING = "sending"
    FLUSHED = "flushed"  # every byte left and FIN was sent
    ACKNOWLEDGED = "acknowledged"  # the receiver has it all; final
    ABORTED = "aborted"  # final


class SendEvent(StrEnum):
    GRANT = "grant"
    DATA = "data"
    FIN = "fin"
    ACK = "ack"
    ABORT = "abort"  # cancel, decline, expiry or receiver lost


class StepState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepEvent(StrEnum):
    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


class Effect(StrEnum):
    """What the driver of a machine must do with a transition, in the order listed there."""

    GRANT = "grant"  # tell the sender where its range begins for this receiver
    COUNT = "count"  # add the chunk to what has arrived
    ACK = "ack"  # tell the sender everything is here
    PUBLISH = "publish"  # make the pages visible to the prefix cache
    FREE_PAGES = "free_pages"  # give the pages back
    REFUSE = "refuse"  # tell the sender to stop; its further messages are dropped
    UNPIN = "unpin"  # the sender's pages need not stay for this send any more


@dataclass(frozen=True, slots=True)
class Transition(Generic[S]):
    state: S
    effects: tuple[Effect, ...] = ()


class ProtocolError(Exception):
    """An event that the table does not allow in this state; `state` and `event` say which."""

    def __init__(self, state: StrEnum, event: StrEnum) -> None:
        super().__init__(f"a {type(state).__name__} in state '{state}' does not take '{event}'")
        self.state = state
        self.event = event


_T, _TE = TicketState, TicketEvent
_TEARDOWN = Transition(_T.RELEASED, (Effect.REFUSE, Effect.FREE_PAGES))

TICKET: Mapping[tuple[TicketState, TicketEvent], Transition[TicketState]] = {
    (_T.REGISTERED, _TE.OPEN): Transition(_T.RESERVED, (Effect.GRANT,)),
    (_T.RESERVED, _TE.DATA): Transition(_T.RECEIVING, (Effect.COUNT,)),
    (_T.RECEIVING, _TE.DATA): Transition(_T.RECEIVING, (Effect.COUNT,)),
    # A range that the receiver had whole needs no data: FIN may follow the grant at once.
    (_T.RESERVED, _TE.FIN): Transition(_T.ARRIVED, (Effect.ACK,)),
    (_T.RECEIVING, _TE.FIN): Transition(_T.ARRIVED, (Effect.ACK,)),
    (_T.ARRIVED, _TE.USE): Transition(_T.IN_USE, (Effect.PUBLISH,)),
    (_T.ARRIVED, _TE.COMMIT): Transition(_T.CACHED, (Effect.PUBLISH, Effect.FREE_PAGES)),
    (_T.REGISTERED, _TE.RELEASE): Transition(_T.RELEASED, (Effect.REFUSE,)),
    (_T.REGISTERED, _TE.EXPIRE): Transition(_T.RELEASED, (Effect.REFUSE,)),
    # A sender that gave up, or is gone, needs no word from us.
    (_T.REGISTERED, _TE.SENDER_LOST): Transition(_T.RELEASED),
    (_T.RESERVED, _TE.RELEASE): _TEARDOWN,
    (_T.RESERVED, _TE.EXPIRE): _TEARDOWN,
    (_T.RESERVED, _TE.SENDER_LOST): Transition(_T.RELEASED, (Effect.FREE_PAGES,)),
    (_T.RECEIVING, _TE.RELEASE): _TEARDOWN,
    (_T.RECEIVING, _TE.EXPIRE): _TEARDOWN,
    (_T.RECEIVING, _TE.SENDER_LOST): Transition(_T.RELEASED, (Effect.FREE_PAGES,)),
    (_T.ARRIVED, _TE.RELEASE): Transition(_T.RELEASED, (Effect.FREE_PAGES,)),
    (_T.ARRIVED, _TE.EXPIRE): Transition(_T.RELEASED, (Effect.FREE_PAGES,)),
    (_T.ARRIVED, _TE.SENDER_LOST): Transition(_T.ARRIVED),
    (_T.IN_USE, _TE.RELEASE): Transition(_T.RELEASED, (Effect.FREE_PAGES,)),
    (_T.IN_USE, _TE.SENDER_LOST): Transition(_T.IN_USE),
}
"""Freed pages go to the prefix cache where they were published (PUBLISH came first), else to the free list."""

_S, _SE = SendState, SendEvent
_ABORT = Transition(_S.ABORTED, (Effect.UNPIN,))

SEND: Mapping[tuple[SendState, SendEvent], Transition[SendState]] = {
    (_S.OPENING, _SE.GRANT): Transition(_S.GRANTED),
    (_S.GRANTED, _SE.DATA): Transition(_S.SENDING),
    (_S.SENDING, _SE.DATA): Transition(_S.SENDING),
    (_S.GRANTED, _SE.FIN): Transition(_S.FLUSHED),
    (_S.SENDING, _SE.FIN): Transition(_S.FLUSHED),
    (_S.FLUSHED, _SE.ACK): Transition(_S.ACKNOWLEDGED, (Effect.UNPIN,)),
    (_S.OPENING, _SE.ABORT): _ABORT,
    (_S.GRANTED, _SE.ABORT): _ABORT,
    (_S.SENDING, _SE.ABORT): _ABORT,
    (_S.FLUSHED, _SE.ABORT): _ABORT,
}

_P, _PE = StepState, StepEvent

STEP: Mapping[tuple[StepState, StepEvent], Transition[StepState]] = {
    (_P.PENDING, _PE.START): Transition(_P.RUNNING),
    (_P.PENDING, _PE.FAIL): Transition(_P.FAILED),
    (_P.PENDING, _PE.CANCEL): Transition(_P.CANCELLED),
    (_P.RUNNING, _PE.FINISH): Transition(_P.DONE),
    (_P.RUNNING, _PE.FAIL): Transition(_P.FAILED),
    (_P.RUNNING, _PE.CANCEL): Transition(_P.CANCELLED),
}


def advance(table: Mapping[tuple[S, E], Transition[S]], state: S, event: E) -> Transition[S]:
    """The transition for `event` in `state`; raises ProtocolError where the table has none."""
    transition = table.get((state, event))
    if transition is None:
        raise ProtocolError(state, event)
    return transition
