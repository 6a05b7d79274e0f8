"""The one transition table of KV transfers and answers: drives the worker and the executor, is explored by the verifier.

A *ticket* is the receiving side of one KV range, a *send* its sending side, a *step* one sub-request
as a worker reports it, an *answer* one request as the router sees it. Each is a small state machine;
whoever drives one calls `advance` and then performs the transition's effects, in order. `CHECKS` says
what a message must satisfy before it is an event at all. These rules are written nowhere else.

    ticket  registered -> reserved -> receiving -> arrived -> in_use -> released
                                                          \\-> cached (commit)
    send    new -> opening -> granted -> sending -> flushed -> acknowledged
    step    pending -> running -> done | failed | cancelled
    answer  planning -> running -> done | failed | cancelled
               ^---- lost ---'
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
    IN_USE = "in_use"  # the plan's own sequence reads it, and is alone to hold its pages
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
    SENDER_LOST = "sender_lost"  # it gave up, or its connection is gone


class SendState(StrEnum):
    NEW = "new"
    OPENING = "opening"  # OPEN sent; computing meanwhile
    GRANTED = "granted"  # the receiver owns pages for it
    SENDING = "sending"
    FLUSHED = "flushed"  # every byte left and FIN was sent
    ACKNOWLEDGED = "acknowledged"  # the receiver has it all; final
    ABORTED = "aborted"  # final


class SendEvent(StrEnum):
    OPEN = "open"  # the sequence has its pages
    GRANT = "grant"
    DATA = "data"
    FIN = "fin"
    ACK = "ack"
    REFUSE = "refuse"  # the receiver wants no more of it
    CANCEL = "cancel"  # end of the plan here
    EXPIRE = "expire"  # no sign of life from the receiver for too long
    RECEIVER_LOST = "receiver_lost"  # its connection is gone


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


class AnswerState(StrEnum):
    PLANNING = "planning"  # no call is open
    RUNNING = "running"  # the calls of one attempt are open
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AnswerEvent(StrEnum):
    PLACED = "placed"  # a decision was made
    TOKEN = "token"  # of an open call
    HANDOVER = "handover"  # the first of two generations is over, the answer is not
    FINISH = "finish"
    LOST = "lost"  # a step failed in a way that another plan may mend
    GIVE_UP = "give_up"  # it failed for good, or too often, or in no time
    CANCEL = "cancel"  # the client is gone


class Effect(StrEnum):
    """What the driver of a machine must do with a transition, in the order listed there."""

    # of a ticket and of a send: a sequence keeps its pages while it lives and while one holds them
    HOLD = "hold"
    LET_GO = "let_go"
    # of a ticket
    GRANT = "grant"  # tell the sender where its range begins for this receiver
    COUNT = "count"  # add the chunk to what has arrived
    ACK = "ack"  # tell the sender everything is here
    PUBLISH = "publish"  # the sequence may read the pages, and the prefix cache show them
    REFUSE = "refuse"  # tell the sender to stop; its further messages are dropped
    # of a send
    ANNOUNCE = "announce"  # ask the receiver to reserve pages
    FINISH = "finish"  # tell the receiver that it was told everything
    WITHDRAW = "withdraw"  # tell the receiver that nothing more comes
    # of an answer
    DISPATCH = "dispatch"  # open the calls of the attempt's next stage, for prompt + tokens emitted
    EMIT = "emit"  # pass the token on to the client
    CLOSE = "close"  # close every open call: cancels it at its worker, and nothing of it is read any more


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
_TEARDOWN = Transition(_T.RELEASED, (Effect.REFUSE, Effect.LET_GO))
_LET_GO = Transition(_T.RELEASED, (Effect.LET_GO,))

TICKET: Mapping[tuple[TicketState, TicketEvent], Transition[TicketState]] = {
    (_T.REGISTERED, _TE.OPEN): Transition(_T.RESERVED, (Effect.HOLD, Effect.GRANT)),
    (_T.RESERVED, _TE.DATA): Transition(_T.RECEIVING, (Effect.COUNT,)),
    (_T.RECEIVING, _TE.DATA): Transition(_T.RECEIVING, (Effect.COUNT,)),
    # A range that the receiver had whole needs no data: FIN may follow the grant at once.
    (_T.RESERVED, _TE.FIN): Transition(_T.ARRIVED, (Effect.ACK,)),
    (_T.RECEIVING, _TE.FIN): Transition(_T.ARRIVED, (Effect.ACK,)),
    (_T.ARRIVED, _TE.USE): Transition(_T.IN_USE, (Effect.PUBLISH, Effect.LET_GO)),
    (_T.ARRIVED, _TE.COMMIT): Transition(_T.CACHED, (Effect.PUBLISH, Effect.LET_GO)),
    (_T.REGISTERED, _TE.RELEASE): Transition(_T.RELEASED, (Effect.REFUSE,)),
    (_T.REGISTERED, _TE.EXPIRE): Transition(_T.RELEASED, (Effect.REFUSE,)),
    # A sender that gave up, or is gone, needs no word from us.
    (_T.REGISTERED, _TE.SENDER_LOST): Transition(_T.RELEASED),
    (_T.RESERVED, _TE.RELEASE): _TEARDOWN,
    (_T.RESERVED, _TE.EXPIRE): _TEARDOWN,
    (_T.RESERVED, _TE.SENDER_LOST): _LET_GO,
    (_T.RECEIVING, _TE.RELEASE): _TEARDOWN,
    (_T.RECEIVING, _TE.EXPIRE): _TEARDOWN,
    (_T.RECEIVING, _TE.SENDER_LOST): _LET_GO,
    (_T.ARRIVED, _TE.RELEASE): _LET_GO,
    (_T.ARRIVED, _TE.EXPIRE): _LET_GO,
    (_T.ARRIVED, _TE.SENDER_LOST): Transition(_T.ARRIVED),
    (_T.IN_USE, _TE.RELEASE): Transition(_T.RELEASED),
    (_T.IN_USE, _TE.SENDER_LOST): Transition(_T.IN_USE),
}

_S, _SE = SendState, SendEvent
_UNPIN = Transition(_S.ABORTED, (Effect.LET_GO,))
_WITHDRAW = Transition(_S.ABORTED, (Effect.WITHDRAW, Effect.LET_GO))
_OPEN_SENDS = (_S.OPENING, _S.GRANTED, _S.SENDING, _S.FLUSHED)

SEND: Mapping[tuple[SendState, SendEvent], Transition[SendState]] = {
    (_S.NEW, _SE.OPEN): Transition(_S.OPENING, (Effect.HOLD, Effect.ANNOUNCE)),
    (_S.OPENING, _SE.GRANT): Transition(_S.GRANTED),
    (_S.GRANTED, _SE.DATA): Transition(_S.SENDING),
    (_S.SENDING, _SE.DATA): Transition(_S.SENDING),
    (_S.GRANTED, _SE.FIN): Transition(_S.FLUSHED, (Effect.FINISH,)),
    (_S.SENDING, _SE.FIN): Transition(_S.FLUSHED, (Effect.FINISH,)),
    (_S.FLUSHED, _SE.ACK): Transition(_S.ACKNOWLEDGED, (Effect.LET_GO,)),
    **{(state, _SE.REFUSE): _UNPIN for state in _OPEN_SENDS},
    **{(state, _SE.RECEIVER_LOST): _UNPIN for state in _OPEN_SENDS},
    **{(state, _SE.CANCEL): _WITHDRAW for state in _OPEN_SENDS},
    **{(state, _SE.EXPIRE): _WITHDRAW for state in _OPEN_SENDS},
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

_A, _AE = AnswerState, AnswerEvent

ANSWER: Mapping[tuple[AnswerState, AnswerEvent], Transition[AnswerState]] = {
    (_A.PLANNING, _AE.PLACED): Transition(_A.RUNNING, (Effect.DISPATCH,)),
    (_A.PLANNING, _AE.GIVE_UP): Transition(_A.FAILED),
    (_A.PLANNING, _AE.CANCEL): Transition(_A.CANCELLED),
    (_A.RUNNING, _AE.TOKEN): Transition(_A.RUNNING, (Effect.EMIT,)),
    (_A.RUNNING, _AE.HANDOVER): Transition(_A.RUNNING, (Effect.DISPATCH,)),
    # Calls of senders end by themselves, with their reports.
    (_A.RUNNING, _AE.FINISH): Transition(_A.DONE),
    (_A.RUNNING, _AE.LOST): Transition(_A.PLANNING, (Effect.CLOSE,)),
    (_A.RUNNING, _AE.GIVE_UP): Transition(_A.FAILED, (Effect.CLOSE,)),
    (_A.RUNNING, _AE.CANCEL): Transition(_A.CANCELLED, (Effect.CLOSE,)),
}


class Check(StrEnum):
    """What a message must satisfy before its receiver takes it for an event."""

    PEER = "peer"  # it comes from the worker at the other end of this transfer
    INCARNATION = "incarnation"  # it means this life of the worker, not an earlier one
    LAYOUT = "layout"  # both ends keep KV in the same form
    RANGE = "range"  # both ends mean the same tokens
    ORDER = "order"  # it is the next chunk of its layer: none is missing before it, none repeated
    COMPLETE = "complete"  # every layer of every token has been counted
    NEWEST = "newest"  # no later attempt of the request has been here
    FRESH = "fresh"  # this step of the attempt has not been here


class Message(StrEnum):
    """What travels between the router and workers (PLAN) and between two workers (the others)."""

    PLAN = "plan"
    OPEN = "open"
    DATA = "data"
    FIN = "fin"
    WITHDRAW = "withdraw"
    GRANT = "grant"
    ACK = "ack"
    REFUSE = "refuse"


CHECKS: Mapping[Message, tuple[Check, ...]] = {
    Message.PLAN: (Check.INCARNATION, Check.NEWEST, Check.FRESH),
    Message.OPEN: (Check.INCARNATION, Check.LAYOUT, Check.RANGE),
    Message.DATA: (Check.PEER, Check.ORDER),
    Message.FIN: (Check.PEER, Check.COMPLETE),
    Message.WITHDRAW: (Check.PEER,),
    Message.GRANT: (Check.PEER,),
    Message.ACK: (Check.PEER,),
    Message.REFUSE: (Check.PEER,),
}
"""Made in this order; the first that fails ends it. A message about a ticket or send that is not
there, or for which the table has no transition now, is dropped and counted."""


def advance(table: Mapping[tuple[S, E], Transition[S]], state: S, event: E) -> Transition[S]:
    """The transition for `event` in `state`; raises ProtocolError where the table has none."""
    transition = table.get((state, event))
    if transition is None:
        raise ProtocolError(state, event)
    return transition
