"""The virtual wires keep the promises of `Transport`, unless they are told not to."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.network import VirtualNetwork, VirtualTransport
from mserve.runtime.transport.base import PeerLost, Received


class Wired:
    """Two transports, and what reached the second, when."""

    def __init__(self, loop: VirtualLoop, **options: Any) -> None:
        self.loop = loop
        self.network = VirtualNetwork(VirtualClock(loop), latency_s=0.5, **options)
        self.heard: list[tuple[float, Any]] = []
        self.first = self.network.join(lambda: None, slots_per_peer=2)
        self.second: VirtualTransport = self.network.join(self._poll)

    def _poll(self) -> None:
        for event in self.second.poll():
            what = event.header if isinstance(event, Received) else event.reason
            size = len(event.payload) if isinstance(event, Received) else -1
            self.heard.append((self.loop.time(), (what, size)))

    def send(self, header: bytes, num_bytes: int = 0) -> bool:
        slot = self.first.stage(self.second.address, num_bytes) if num_bytes else None
        if num_bytes and slot is None:
            return False
        self.first.send(self.second.address, header, slot)
        return True


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run(main(loop))
    finally:
        loop.close()


def test_messages_take_their_time_and_keep_their_order() -> None:
    async def main(loop: VirtualLoop) -> None:
        wired = Wired(loop, bytes_per_s=1000.0)
        assert wired.send(b"big", 936)  # with its header a second on the wire
        assert wired.send(b"small")
        await asyncio.sleep(5.0)
        assert wired.heard == [(1.5, (b"big", 936)), (1.564, (b"small", 0))]

    run(main)


def test_slots_are_few_and_come_back() -> None:
    async def main(loop: VirtualLoop) -> None:
        wired = Wired(loop)
        assert [wired.send(b"x", 8) for _ in range(3)] == [True, True, False]
        await asyncio.sleep(1.0)
        assert wired.send(b"x", 8)
        await asyncio.sleep(1.0)
        assert wired.first.num_slots_held == 0

    run(main)


def test_a_killed_sender_is_lost_with_or_after_what_it_sent() -> None:
    async def main(loop: VirtualLoop) -> None:
        for lose, before in ((True, []), (False, [(b"last words", 0)])):
            wired = Wired(loop)
            wired.send(b"first")
            await asyncio.sleep(1.0)
            wired.send(b"last words")
            wired.network.kill(wired.first.address, lose_in_flight=lose)
            await asyncio.sleep(1.0)
            assert [what for _, what in wired.heard] == [
                (b"first", 0),
                *before,
                ("the peer died", -1),
            ]

    run(main)


def test_whoever_sends_to_the_dead_is_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        wired = Wired(loop)
        address = wired.second.address
        wired.network.kill(address)
        wired.first.send(address, b"anybody there?")
        await asyncio.sleep(1.0)
        assert wired.first.poll() == [PeerLost(address, "no such peer")]

    run(main)


def test_a_closed_connection_is_made_anew() -> None:
    async def main(loop: VirtualLoop) -> None:
        wired = Wired(loop)
        wired.send(b"lost on the way")
        wired.first.close(wired.second.address)
        wired.send(b"new")
        await asyncio.sleep(1.0)
        assert [what for _, what in wired.heard] == [(b"new", 0)]

    run(main)


def test_disturbances() -> None:
    delays: dict[bytes, Sequence[float]] = {b"lost": (), b"twice": (0.0, 3.0), b"late": (1.0,)}

    async def main(loop: VirtualLoop) -> None:
        wired = Wired(loop, disturb=lambda header: delays.get(header, (0.0,)))
        for header in (b"lost", b"twice", b"late", b"after"):
            wired.send(header, 8)
            await asyncio.sleep(0.6 if header == b"lost" else 0.0)
        wired.send(b"after")
        await asyncio.sleep(5.0)
        what = [header for _, (header, _) in wired.heard]
        assert what == [b"twice", b"late", b"after", b"twice"]
        assert wired.network.num_under_way == 0

    run(main)
