"""UCX with the other end in a real process that is killed, frozen and started anew.

Run as a program this file is that other end: it prints its address, then a line per lost peer,
and ends with its standard input. A header says what it does with a message.
"""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest

from mserve.runtime.transport.base import MAX_PAYLOAD_BYTES, PeerLost, Received
from mserve.runtime.transport.ucx import UcxTransport

Drive = Any  # the fixture of conftest.py
ECHO, SINK, FLOOD = b"echo", b"sink", b"flood"


class EchoServer:
    def __init__(self, transport: UcxTransport) -> None:
        self._transport = transport
        self._flooded: list[bytes] = []

    def run(self) -> None:
        print(self._transport.address.hex(), flush=True)
        while not self._sleep():
            for event in self._transport.poll():
                self._handle(event)
            for peer in self._flooded:
                self._flood(peer)
        self._transport.close()

    def _sleep(self) -> bool:
        """Whether standard input has ended."""
        descriptor = self._transport.wakeup_fd()
        if descriptor is None:
            return bool(select.select([0], [], [], 0)[0])
        return 0 in select.select([0, descriptor], [], [])[0]

    def _handle(self, event: Received | PeerLost) -> None:
        if isinstance(event, PeerLost):
            print(f"lost {event.reason}", flush=True)
            self._flooded = [peer for peer in self._flooded if peer != event.peer]
        elif event.header.startswith(ECHO):
            slot = self._transport.stage(event.peer, len(event.payload))
            assert slot is not None, "the other end waits for each echo"
            slot.view[:] = event.payload
            self._transport.send(event.peer, event.header, slot)
        elif event.header == FLOOD:
            self._flooded.append(event.peer)

    def _flood(self, peer: bytes) -> None:
        while (slot := self._transport.stage(peer, MAX_PAYLOAD_BYTES)) is not None:
            self._transport.send(peer, FLOOD, slot)


class OtherProcess:
    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @cached_property
    def address(self) -> bytes:
        return bytes.fromhex(self.read_line())

    def says_something(self, timeout_s: float) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], timeout_s)[0])

    def read_line(self) -> str:
        assert self.process.stdout is not None
        assert self.says_something(10), "the process says nothing"
        return self.process.stdout.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        assert self.address, "it runs and has said so"
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()

    def cpu_s(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[], OtherProcess]]:
    started: list[OtherProcess] = []

    def start() -> OtherProcess:
        started.append(OtherProcess())
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="module")
def bystander() -> Iterator[OtherProcess]:
    """A peer that no test harms, and that none may disturb."""
    process = OtherProcess()
    yield process
    process.end()


@pytest.fixture
def transport() -> Iterator[UcxTransport]:
    transport = UcxTransport(num_slots=8, slots_per_peer=4)
    yield transport
    transport.close()


def send_payload(transport: UcxTransport, peer: bytes, header: bytes, payload: bytes) -> bool:
    slot = transport.stage(peer, len(payload))
    if slot is None:
        return False
    slot.view[:] = payload
    transport.send(peer, header, slot)
    return True


def fill(transport: UcxTransport, peer: bytes) -> None:
    while send_payload(transport, peer, SINK, bytes(MAX_PAYLOAD_BYTES)):
        pass


def has_free_slots(transport: UcxTransport, peer: bytes, count: int) -> bool:
    staged = [slot for slot in (transport.stage(peer, 1) for _ in range(count)) if slot]
    for slot in staged:
        slot.release()
    return len(staged) == count


def echo(transport: UcxTransport, drive: Drive, peer: bytes, payload: bytes) -> None:
    inbox = drive.inbox(transport)
    header = ECHO + b"%d" % len(inbox.messages)
    assert send_payload(transport, peer, header, payload)
    drive.until(lambda: header in inbox.headers(peer), transport)
    assert (peer, header, payload) in inbox.messages


def test_payloads_cross_processes_unharmed(
    bystander: OtherProcess, transport: UcxTransport, drive: Drive
) -> None:
    for num_bytes in (1, 8192, 100_000, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES - 1):
        echo(transport, drive, bystander.address, random.Random(num_bytes).randbytes(num_bytes))
    assert not drive.inbox(transport).lost


@pytest.mark.parametrize("num_messages_before", [0, 1, 30])
def test_a_killed_peer_is_lost_and_others_are_not_disturbed(
    start: Callable[[], OtherProcess],
    bystander: OtherProcess,
    transport: UcxTransport,
    drive: Drive,
    num_messages_before: int,
) -> None:
    victim = start()
    inbox = drive.inbox(transport)
    echo(transport, drive, bystander.address, b"before")
    transport.send(victim.address, FLOOD)
    drive.until(lambda: len(inbox.headers(victim.address)) >= num_messages_before, transport)
    fill(transport, victim.address)
    victim.signal(signal.SIGKILL)
    killed_s = time.monotonic()
    drive.until(lambda: inbox.lost, transport)
    assert time.monotonic() - killed_s < 2
    assert [lost.peer for lost in inbox.lost] == [victim.address]
    drive.until(lambda: has_free_slots(transport, victim.address, 4), transport)
    drive.until(lambda: transport.num_slots_held == 0, transport)
    echo(transport, drive, bystander.address, b"after" * 100_000)
    assert len(inbox.lost) == 1
    closing_s = time.monotonic()
    transport.close()
    assert time.monotonic() - closing_s < 1


def test_the_ring_is_whole_after_many_kills(
    start: Callable[[], OtherProcess], transport: UcxTransport, drive: Drive
) -> None:
    """Each dies with its whole share under way in both directions; together twice the ring."""
    victims = [start() for _ in range(4)]
    inbox = drive.inbox(transport)
    for number, victim in enumerate(victims, 1):
        transport.send(victim.address, FLOOD)
        drive.until(lambda: inbox.headers(victim.address), transport)  # noqa: B023
        fill(transport, victim.address)
        victim.signal(signal.SIGKILL)
        drive.until(lambda: len(inbox.lost) == number, transport)  # noqa: B023
    drive.until(lambda: transport.num_slots_held == 0, transport)
    assert has_free_slots(transport, b"one", 4)


def test_a_frozen_peer_is_closed_without_waiting_and_hears_of_it_when_it_thaws(
    start: Callable[[], OtherProcess],
    bystander: OtherProcess,
    transport: UcxTransport,
    drive: Drive,
) -> None:
    frozen = start()
    echo(transport, drive, frozen.address, b"x" * 100_000)
    echo(transport, drive, bystander.address, b"x" * 100_000)
    frozen.signal(signal.SIGSTOP)
    fill(transport, frozen.address)
    drive.inbox(transport).poll(transport)
    closing_s = time.monotonic()
    transport.close(frozen.address)
    assert time.monotonic() - closing_s < 0.05
    drive.until(lambda: has_free_slots(transport, frozen.address, 4), transport)
    echo(transport, drive, bystander.address, b"y" * 100_000)
    assert not drive.inbox(transport).lost
    frozen.signal(signal.SIGCONT)
    drive.until(lambda: frozen.says_something(0), transport)
    assert frozen.read_line() == "lost the peer closed the connection"
    echo(transport, drive, frozen.address, b"we meet again")


def test_a_peer_frozen_before_it_ever_answered_is_lost(
    start: Callable[[], OtherProcess], drive: Drive
) -> None:
    now_s = 0.0
    transport = UcxTransport(num_slots=8, slots_per_peer=4, clock=lambda: now_s)
    frozen = start()
    frozen.signal(signal.SIGSTOP)
    fill(transport, frozen.address)
    for _ in range(100):
        drive.inbox(transport).poll(transport)
    assert not drive.inbox(transport).lost
    now_s = 6.0
    drive.until(lambda: drive.inbox(transport).lost, transport)
    assert has_free_slots(transport, frozen.address, 4)
    transport.close()


def test_a_restarted_peer_is_a_new_one(
    start: Callable[[], OtherProcess], transport: UcxTransport, drive: Drive
) -> None:
    old, new = start(), start()
    echo(transport, drive, old.address, b"old")
    old.signal(signal.SIGKILL)
    drive.until(lambda: drive.inbox(transport).lost, transport)
    assert new.address != old.address
    echo(transport, drive, new.address, b"new")
    transport.send(old.address, SINK)
    drive.until(lambda: len(drive.inbox(transport).lost) == 2, transport)
    assert drive.inbox(transport).lost[1].peer == old.address


def test_idle_ends_use_no_cpu(
    bystander: OtherProcess, transport: UcxTransport, drive: Drive
) -> None:
    echo(transport, drive, bystander.address, b"x" * 100_000)
    drive.until_idle(transport, idle_s=0.2)
    before_s, bystander_before_s = time.process_time(), bystander.cpu_s()
    descriptor = transport.wakeup_fd()
    assert descriptor is not None
    assert not select.select([descriptor], [], [], 1)[0]
    assert time.process_time() - before_s < 0.01
    assert bystander.cpu_s() - bystander_before_s <= 0.01


if __name__ == "__main__":
    EchoServer(UcxTransport(num_slots=8, slots_per_peer=4)).run()
