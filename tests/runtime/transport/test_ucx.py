"""What only UCX has: bytes that change while they are read, missing permission, bad options."""

import ctypes
import os
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.transport.ucx import UcxTransport, cma_warning
from mserve.runtime.transport.ucx_endpoint import (
    DEFAULT_OPTIONS,
    LOOPBACK_OPTIONS,
    UcxRequest,
    lists_cma,
)

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


def test_a_slot_is_not_lent_again_before_its_request_has_ended(
    ends: tuple[UcxTransport, UcxTransport], drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is gone, and UCX may still read from it: as long as UCX does not say so."""
    a, b = ends
    a.send(b.address, b"hello")
    drive.until(lambda: drive.inbox(b).messages, a, b)
    under_way = [a.stage(b.address, 1 << 20) for _ in range(3)]
    addresses = {address_of(slot) for slot in under_way}
    for slot in under_way:
        a.send(b.address, b"kv", slot)
    a.poll()
    monkeypatch.setattr(UcxRequest, "ended", property(lambda request: False))
    a.close(b.address)
    for _ in range(20):
        a.poll()
    free = [slot for peer in (b"one", b"two") for _ in range(4) if (slot := a.stage(peer, 1))]
    assert len(free) == 8 - 3
    assert addresses.isdisjoint(address_of(slot) for slot in free)
    for slot in free:
        slot.release()
    monkeypatch.undo()
    drive.until(lambda: a.num_slots_held == 0, a, b)
    again = [slot for peer in (b"one", b"two") for _ in range(4) if (slot := a.stage(peer, 1))]
    assert addresses <= {address_of(slot) for slot in again}


def address_of(slot: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(slot.view))


def test_on_loopback_nothing_listens_elsewhere(drive: Drive) -> None:
    before = listening()
    a, b = UcxTransport(options=LOOPBACK_OPTIONS), UcxTransport(options=LOOPBACK_OPTIONS)
    assert listening() - before, "they listen on something"
    assert {address for _, address in listening() - before} == {"0100007F"}
    a.send(b.address, b"hello")
    drive.until(lambda: drive.inbox(b).messages, a, b)
    a.close()
    b.close()


def listening() -> set[tuple[str, str]]:
    """(inode, address in hexadecimal) of this process's listening sockets."""
    links = [os.readlink(link) for link in glob("/proc/self/fd/*") if os.path.islink(link)]
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.add((fields[9], fields[1].partition(":")[0]))
    return found


def test_cma_is_told_from_tcp() -> None:
    assert not lists_cma({"TLS": "tcp"})
    assert (cma_warning() is None) == lists_cma()


def test_options_without_any_way_to_communicate_are_the_operators_mistake() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        UcxTransport(options={**DEFAULT_OPTIONS, "TLS": "nonsense"})
