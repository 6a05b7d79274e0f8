"""The bytes between two UCX transports: what is malformed is refused, never handed to UCX."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.transport.ucx_wire import (
    CONTROL_BIT,
    MAX_CHANNEL,
    MAX_SEQUENCE,
    Bye,
    Hello,
    MalformedMessage,
    control_tag,
    pack_address,
    pack_control,
    pack_greeting,
    payload_tag,
    split_tag,
    unpack_control,
    unpack_greeting,
    worker_address,
)

channels = st.integers(0, MAX_CHANNEL)
sequences = st.integers(0, MAX_SEQUENCE)


@given(channels, sequences)
def test_tags_carry_channel_and_sequence(channel: int, sequence: int) -> None:
    control, payload = control_tag(channel, sequence), payload_tag(channel, sequence)
    assert split_tag(control) == split_tag(payload) == (channel, sequence)
    assert control & CONTROL_BIT
    assert not payload & CONTROL_BIT
    assert control < 1 << 64


@given(channels, sequences, channels, sequences)
def test_no_two_messages_share_a_tag(a: int, i: int, b: int, j: int) -> None:
    assert (payload_tag(a, i) == payload_tag(b, j)) == ((a, i) == (b, j))


@given(st.binary(max_size=100), channels, channels)
def test_greetings_survive_the_wire(sender: bytes, channel: int, answers: int) -> None:
    for greeting in (Hello(sender, channel, answers), Bye(sender, channel)):
        assert unpack_greeting(bytearray(pack_greeting(greeting))) == greeting


@given(st.binary(max_size=100), st.integers(0, 1 << 21), st.integers(0, (1 << 64) - 1))
def test_control_messages_survive_the_wire(header: bytes, num_bytes: int, stamp: int) -> None:
    message = bytearray(pack_control(header, num_bytes, stamp))
    assert unpack_control(message) == (header, num_bytes, stamp)


@given(st.binary(max_size=20))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(MalformedMessage):
        worker_address(garbage)
    with pytest.raises(MalformedMessage):
        unpack_greeting(bytearray(b"?" + garbage))
    with pytest.raises(MalformedMessage):
        unpack_control(bytearray(garbage[:3]))


def test_a_flipped_bit_in_an_address_is_noticed() -> None:
    address = pack_address(b"where to connect", b"8 bytes!")
    assert worker_address(address) == b"where to connect"
    for position in range(len(address)):
        broken = bytearray(address)
        broken[position] ^= 1
        with pytest.raises(MalformedMessage):
            worker_address(bytes(broken))


def test_incarnations_differ() -> None:
    assert pack_address(b"same place", b"nonce--1") != pack_address(b"same place", b"nonce--2")
