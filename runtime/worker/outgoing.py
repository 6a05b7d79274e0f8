"""One receiver's copy of a send: how far it is. sends.py moves it on."""

from dataclasses import dataclass

from mserve.compiler.protocol import SendState


@dataclass(slots=True, eq=False)
class Outgoing:
    """`[position, end)` is still to go; `layer` is the next of the piece `[position, piece_end)`."""

    key: str
    step: str
    ticket: str
    peer: bytes
    worker: str
    incarnation: str  # of the worker that the plan means
    begin: int  # moved on by the grant
    end: int
    deadline_s: float  # for the receiver's next sign of life
    state: SendState = SendState.NEW
    position: int = 0
    piece_end: int = 0
    layer: int = 0
    sent_bytes: int = 0
