"""What two UCX transports say to each other: addresses, tags, introductions. Bytes in and out.

Tag matching is worker-wide, so every connection end picks a channel for what it is sent, never
picks it again, and tells the other end in a HELLO; a BYE says that the channel has ended.

    tag      1 bit     24 bits   39 bits
    control  1         channel   sequence     [payload bytes: u32][stamp: u64][header]
    greeting 1         0         0            HELLO or BYE
    payload  0         channel   sequence     [payload][stamp: u64], of the control message
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from mserve.runtime.transport.base import MAX_HEADER_BYTES

CONTROL_BIT: Final = 1 << 63
MAX_CHANNEL: Final = (1 << 24) - 1
MAX_SEQUENCE: Final = (1 << 39) - 1
NONCE_BYTES: Final = 8

_SEQUENCE_BITS = 39
_MAGIC = b"ucx1"
_CHECKSUM = struct.Struct("<I")
_CONTROL = struct.Struct("<IQ")
_GREETING = struct.Struct("<cII")
MAX_CONTROL_BYTES: Final = _CONTROL.size + MAX_HEADER_BYTES


class MalformedMessage(Exception):
    """Bytes that no transport of this version sends. The message is a full sentence."""


@dataclass(frozen=True, slots=True)
class Hello:
    """`sender` receives on `channel`. `answers` is the channel whose HELLO this replies to, or 0."""

    sender: bytes
    channel: int
    answers: int


@dataclass(frozen=True, slots=True)
class Bye:
    """`sender` no longer receives on `channel`: that connection has ended."""

    sender: bytes
    channel: int


def pack_address(worker_address: bytes, nonce: bytes) -> bytes:
    """Names one incarnation of a transport: a restarted process never equals its predecessor."""
    assert len(nonce) == NONCE_BYTES, "a nonce has 8 bytes"
    body = _MAGIC + nonce + worker_address
    return body + _CHECKSUM.pack(zlib.crc32(body))


def worker_address(address: bytes) -> bytes:
    """What UCX connects to. UCX trusts these bytes blindly, hence the checksum.

    Raises MalformedMessage.
    """
    body, checksum = address[: -_CHECKSUM.size], address[-_CHECKSUM.size :]
    if not body.startswith(_MAGIC) or checksum != _CHECKSUM.pack(zlib.crc32(body)):
        raise MalformedMessage("These bytes are not the address of a UCX transport.")
    return body[len(_MAGIC) + NONCE_BYTES :]


def control_tag(channel: int, sequence: int) -> int:
    return CONTROL_BIT | payload_tag(channel, sequence)


def payload_tag(channel: int, sequence: int) -> int:
    assert sequence <= MAX_SEQUENCE, "a connection carries fewer than 2**39 messages"
    return channel << _SEQUENCE_BITS | sequence


def split_tag(tag: int) -> tuple[int, int]:
    """(channel, sequence)"""
    return tag >> _SEQUENCE_BITS & MAX_CHANNEL, tag & MAX_SEQUENCE


def pack_control(header: bytes, num_payload_bytes: int, stamp: int) -> bytes:
    return _CONTROL.pack(num_payload_bytes, stamp) + header


def unpack_control(message: bytearray) -> tuple[bytes, int, int]:
    """(header, payload bytes, stamp). Raises MalformedMessage."""
    if len(message) < _CONTROL.size:
        raise MalformedMessage("A control message was cut short.")
    return bytes(message[_CONTROL.size :]), *_CONTROL.unpack_from(message)


def pack_greeting(greeting: Hello | Bye) -> bytes:
    if isinstance(greeting, Hello):
        head = _GREETING.pack(b"H", greeting.channel, greeting.answers)
    else:
        head = _GREETING.pack(b"B", greeting.channel, 0)
    return head + greeting.sender


def unpack_greeting(message: bytearray) -> Hello | Bye:
    """Raises MalformedMessage."""
    if len(message) < _GREETING.size:
        raise MalformedMessage("A greeting was cut short.")
    kind, channel, answers = _GREETING.unpack_from(message)
    sender = bytes(message[_GREETING.size :])
    if kind == b"H":
        return Hello(sender, channel, answers)
    if kind == b"B":
        return Bye(sender, channel)
    raise MalformedMessage("A greeting is of an unknown kind.")
