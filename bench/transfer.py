"""How fast does KV move between two processes over UCX, against a plain memcpy?

    python bench/transfer.py [--rounds N] [--json FILE]

64 MiB go as payloads of at most 2 MiB from staging slots of one process to staging slots of
another, until the receiver's acknowledgement is back; rounds alternate with a memcpy of as many
bytes, so that a busy machine slows both. Bar: at least 60% of memcpy. No transport over CMA
can outdo the system call below it, process_vm_readv, which is measured along with them. All memory
is in huge pages where the system has them; without them that call is half as fast.
Then the round trip of a 64-byte message. Both ends poll for 50 us before they sleep.
"""

import argparse
import ctypes
import select
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from mserve.runtime.transport.base import MAX_PAYLOAD_BYTES, Received, Slot
from mserve.runtime.transport.ring import huge_pages
from mserve.runtime.transport.ucx import UcxTransport, cma_warning
from record import write_record

TRANSFER_BYTES = 64 << 20
NUM_ROUND_TRIPS = 2000
WARM_UP_ROUNDS = 2
SPIN_S = 50e-6
T = TypeVar("T")
KV, DONE, PING = b"kv", b"done", b"ping".ljust(64)


class Loop:
    """Polls for a while, then sleeps until something happens, as an engine without work does."""

    def __init__(self) -> None:
        self.transport = UcxTransport()
        self._arrived: deque[Received] = deque()

    def receive(self) -> Received:
        """The next message; the payload of the one before is no longer valid."""
        return self._wait(lambda: self._arrived.popleft() if self._arrived else None)

    def stage(self, peer: bytes, num_bytes: int) -> Slot:
        return self._wait(lambda: self.transport.stage(peer, num_bytes))

    def _wait(self, attempt: Callable[[], T | None]) -> T:
        spin_until_s = time.perf_counter() + SPIN_S
        while (outcome := attempt()) is None:
            if time.perf_counter() > spin_until_s:
                self._sleep()
                spin_until_s = time.perf_counter() + SPIN_S
            self._poll()
        return outcome

    def _poll(self) -> None:
        for event in self.transport.poll():
            assert isinstance(event, Received), f"the other process is gone: {event}"
            self._arrived.append(event)

    def _sleep(self) -> None:
        descriptor = self.transport.wakeup_fd()
        if descriptor is not None:
            select.select([descriptor], [], [])


def serve(loop: Loop) -> None:
    """The other process: counts payload bytes, acknowledges each transfer, echoes the rest."""
    source = filled_pages()
    print(loop.transport.address.hex(), address_of(source), flush=True)
    num_bytes = 0
    while True:
        message = loop.receive()
        num_bytes += len(message.payload)
        if message.header != KV:
            loop.transport.send(message.peer, message.header)
        elif num_bytes == TRANSFER_BYTES:
            loop.transport.send(message.peer, DONE)
            num_bytes = 0


class IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("num_bytes", ctypes.c_size_t))


def filled_pages() -> memoryview:
    pages = huge_pages(TRANSFER_BYTES)
    pages[:] = bytes([1]) * TRANSFER_BYTES
    return pages


def address_of(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def read_from(process_id: int, source: int, target: memoryview) -> None:
    """The bare system call, in pieces of a payload's size."""
    target_address = address_of(target)
    call = ctypes.CDLL(None).process_vm_readv
    for offset in range(0, TRANSFER_BYTES, MAX_PAYLOAD_BYTES):
        local = IoVec(target_address + offset, MAX_PAYLOAD_BYTES)
        remote = IoVec(source + offset, MAX_PAYLOAD_BYTES)
        arguments = ctypes.byref(local), 1, ctypes.byref(remote), 1, 0
        assert call(process_id, *arguments) == MAX_PAYLOAD_BYTES, "reading another process failed"


def transfer(loop: Loop, peer: bytes) -> None:
    remaining = TRANSFER_BYTES
    while remaining:
        slot = loop.stage(peer, min(remaining, MAX_PAYLOAD_BYTES))
        remaining -= len(slot.view)
        loop.transport.send(peer, KV, slot)
    assert loop.receive().header == DONE


def round_trip(loop: Loop, peer: bytes) -> None:
    loop.transport.send(peer, PING)
    assert loop.receive().header == PING


def timed_s(action: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


def measure(
    loop: Loop, peer: bytes, read: Callable[[memoryview], None], rounds: int
) -> dict[str, float]:
    source, target = filled_pages(), filled_pages()
    actions: dict[str, Callable[[], None]] = {
        "memcpy": lambda: target.__setitem__(slice(None), source),
        "process_vm_readv": lambda: read(target),
        "transfer": lambda: transfer(loop, peer),
    }
    times_s: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for name, action in actions.items():
            times_s[name].append(timed_s(action))
    speeds = {
        name: TRANSFER_BYTES / 2**30 / statistics.median(times[WARM_UP_ROUNDS:])
        for name, times in times_s.items()
    }
    trips_s = [timed_s(lambda: round_trip(loop, peer)) for _ in range(NUM_ROUND_TRIPS)]
    return {
        **{f"{name}_gib_per_s": round(speed, 2) for name, speed in speeds.items()},
        "transfer_to_memcpy": round(speeds["transfer"] / speeds["memcpy"], 3),
        "transfer_to_process_vm_readv": round(speeds["transfer"] / speeds["process_vm_readv"], 3),
        "round_trip_p50_us": round(statistics.median(trips_s) * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="transfers that are timed")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    loop = Loop()
    if options.receive:
        serve(loop)
        return
    if (warning := cma_warning()) is not None:
        print(warning)
    command = [sys.executable, __file__, "--receive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            assert receiver.stdout is not None
            peer, source = receiver.stdout.readline().split()
            read = partial(read_from, receiver.pid, int(source))
            figures = measure(loop, bytes.fromhex(peer), read, options.rounds)
        finally:
            receiver.kill()
    for name, figure in figures.items():
        print(f"{name:30} {figure:10}")
    write_record(
        options.json,
        "KV between two processes against a memcpy",
        ["mserve", "ucxx-cu13", "ucxx-cu12", "libucx-cu13", "libucx-cu12"],
        rounds=options.rounds,
        transfer_bytes=TRANSFER_BYTES,
        figures=figures,
    )


if __name__ == "__main__":
    main()
