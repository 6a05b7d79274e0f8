"""What travels between the actors of an exploration: one letter each, small and hashable."""

from enum import StrEnum
from typing import NamedTuple

ROUTER = -1  # as a destination; workers are numbered from 0


class Kind(StrEnum):
    __hash__ = str.__hash__  # hashed millions of times; that of Enum is a Python function

    # worker to worker; subject: the ticket
    OPEN = "open"  # detail: the receiver's incarnation that is meant
    DATA = "data"  # detail: which of the two halves
    FIN = "fin"
    WITHDRAW = "withdraw"
    GRANT = "grant"  # detail: 1 if the receiver had the whole range
    ACK = "ack"
    REFUSE = "refuse"
    LOST = "lost"  # the connection is gone; subject: the worker at its other end
    # router to worker; subject: the number of the dispatch
    PLAN = "plan"  # detail: the incarnation that is meant; more: first token, tokens to generate
    CLOSE = "close"
    # worker to router; subject: the number of the dispatch
    TOKEN = "token"  # detail: which token of the answer; more: 1 if the answer ends with it
    FINISH = "finish"  # detail: tokens of the answer so far; more: 1 if only the limit ended it
    DONE = "done"
    FAIL = "fail"  # detail: who is to blame, or -1 for the worker itself
    END_OF_STREAM = "end of stream"


class Signal(NamedTuple):
    kind: Kind
    subject: int
    detail: int = 0
    more: tuple[int, ...] = ()
    is_foreign: bool = False  # from a worker that has no part in this transfer


Letter = tuple[int, Signal]  # to whom, what


OF_TRANSFERS = frozenset(
    (Kind.OPEN, Kind.DATA, Kind.FIN, Kind.WITHDRAW, Kind.GRANT, Kind.ACK, Kind.REFUSE)
)
