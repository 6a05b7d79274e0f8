"""What only UCX has: bytes that change while they are read, missing permission, bad options."""

from collections.abc import Iterator
from typing import Any

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.transport.ucx import UcxTransport, cma_warning
from mserve.runtime.transport.ucx_endpoint import DEFAULT_OPTIONS, lists_cma

Drive = Any  # the fixture of conftest.py


@pytest.fixture
def ends() -> Iterator[tuple[UcxTransport, UcxTransport]]:
    ends = UcxTransport(num_slots=8, slots_per_peer=4), UcxTransport()
    yield ends
    for end in ends:
        end.close()


def test_a_payload_whose_slot_was_used_again_is_never_delivered(
    ends: tuple[UcxTransport, UcxTransport], drive: Drive
) -> None:
    """As after a freeze: the sender has given the message up, the receiver reads on."""
    a, b = ends
    for header in (b"good", b"overwritten", b"behind it"):
        slot = a.stage(b.address, 100_000)
        assert slot is not None
        a.send(b.address, header, slot)
        if header == b"good":
            drive.until(lambda: drive.inbox(b).messages, a, b)
            drive.until(lambda: a.num_slots_held == 0, a, b)
        elif header == b"overwritten":
            slot.frame[:] = bytes(len(slot.frame))
    drive.until(lambda: drive.inbox(a).lost and drive.inbox(b).lost, a, b)
    assert drive.inbox(b).headers(a.address) == [b"good"]
    drive.until(lambda: a.num_slots_held == b.num_slots_held == 0, a, b)


def test_every_slot_comes_back_in_the_end(
    ends: tuple[UcxTransport, UcxTransport], drive: Drive
) -> None:
    a, b = ends
    for _ in range(5):
        for sender, receiver in ((a, b), (b, a)):
            slot = sender.stage(receiver.address, 50_000)
            assert slot is not None
            sender.send(receiver.address, b"kv", slot)
        a.close(b.address)
        drive.until_idle(a, b, idle_s=0.01)
    drive.until(lambda: a.num_slots_held == b.num_slots_held == 0, a, b)


def test_cma_is_told_from_tcp() -> None:
    assert not lists_cma({"TLS": "tcp"})
    assert (cma_warning() is None) == lists_cma()


def test_options_without_any_way_to_communicate_are_the_operators_mistake() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        UcxTransport(options={**DEFAULT_OPTIONS, "TLS": "nonsense"})
