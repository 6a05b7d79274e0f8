"""What the engines of two workers say to each other about one ticket: headers on the transport.

    sender   Open ->                      I shall send [begin, end); computing meanwhile
    receiver         <- Grant             pages are reserved; begin at what I lack
    sender   Data, Data, ... ->           one (layer, range) each, with its KV as payload
    sender   Fin ->                       that was all
    receiver         <- Ack               every layer of every token is here
    either   Refuse / Withdraw            it ends here, and why

Tickets are named by the executor with 128 random bits, so a name is also the proof of being invited.
"""

import msgspec
from msgspec import Struct


class Hello(Struct, frozen=True, tag="hello", array_like=True):
    """Nothing but the connection it opens, before a request has to wait for one."""


class Open(Struct, frozen=True, tag="open", array_like=True):
    ticket: str
    sender: str
    incarnation: str  # of the receiver the plan means
    fingerprint: str  # of the sender's KV layout
    begin: int
    end: int


class Grant(Struct, frozen=True, tag="grant", array_like=True):
    ticket: str
    begin: int  # first position the receiver lacks; `end` or more: nothing to send


class Data(Struct, frozen=True, tag="data", array_like=True):
    """Payload: KV of one layer, positions [begin, end), in the wire form of batching.KvStore."""

    ticket: str
    layer: int
    begin: int
    end: int
    checksum: int | None = None  # xxh3-64 of the payload, from a sender that makes them


class Fin(Struct, frozen=True, tag="fin", array_like=True):
    ticket: str


class Ack(Struct, frozen=True, tag="ack", array_like=True):
    ticket: str


class Refuse(Struct, frozen=True, tag="refuse", array_like=True):
    """Receiver to sender: stop. `kind` is a RequestError's."""

    ticket: str
    kind: str
    detail: str


class Withdraw(Struct, frozen=True, tag="withdraw", array_like=True):
    """Sender to receiver: the rest will not come."""

    ticket: str
    detail: str


ToReceiver = Hello | Open | Data | Fin | Withdraw
ToSender = Grant | Ack | Refuse
TransferMessage = ToReceiver | ToSender

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(TransferMessage).decode
