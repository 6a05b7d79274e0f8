"""What messages between simulated workers cost: latency, bytes over the link, and what stands before."""

from collections.abc import Callable
from contextlib import closing

import pytest

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.links import Computing, Links, LinkSpec, PricedTransport
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.transport.base import PeerLost, Received

LATENCY_S = 0.001
SPEC = LinkSpec(bytes_per_s=1000.0, kv_bytes_per_token=10.0, num_layers=4)


class Cluster:
    """Notes when each message arrives."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.links = Links(self.clock, latency_s=LATENCY_S)
        self.arrivals: list[tuple[str, float]] = []
        self.losses: list[bytes] = []

    def join(self) -> PricedTransport:
        transport = self.links.join(SPEC, lambda: self._note(transport))
        return transport

    def _note(self, transport: PricedTransport) -> None:
        for event in transport.poll():
            if isinstance(event, Received):
                self.arrivals.append((event.header.decode(), self.clock.now()))
            elif isinstance(event, PeerLost):
                self.losses.append(event.peer)

    def play(self, script: Callable[[], None]) -> list[tuple[str, float]]:
        async def main() -> None:
            script()
            await self.clock.sleep(100.0)

        with closing(self.loop):
            self.loop.run(main())
        return self.arrivals


def kv(sender: PricedTransport, receiver: PricedTransport, name: bytes, num_tokens: int) -> None:
    sender.send(receiver.address, name, sender.stage(receiver.address, num_tokens))


def test_a_range_takes_its_bytes_over_the_link() -> None:
    cluster = Cluster()
    a, b = cluster.join(), cluster.join()

    def script() -> None:
        a.send(b.address, b"open")
        kv(a, b, b"data", 50)
        a.send(b.address, b"fin")

    arrivals = cluster.play(script)
    assert arrivals == [("open", LATENCY_S), ("data", 0.501), ("fin", 0.501)]
    assert cluster.links.num_bytes == 500


def test_ranges_share_the_links_of_both_ends() -> None:
    cluster = Cluster()
    a, b, c, d = (cluster.join() for _ in range(4))

    def script() -> None:
        kv(a, c, b"first", 10)
        kv(b, c, b"into the same", 10)
        kv(a, d, b"out of the same", 10)
        kv(b, d, b"after both", 10)

    arrivals = dict(cluster.play(script))
    assert arrivals["first"] == pytest.approx(0.101)
    assert arrivals["into the same"] == pytest.approx(0.201)
    assert arrivals["out of the same"] == pytest.approx(0.201)
    assert arrivals["after both"] == pytest.approx(0.301)


def test_what_a_step_computes_leaves_while_it_computes_but_for_the_last_layer() -> None:
    cluster = Cluster()
    a, b, c = cluster.join(), cluster.join(), cluster.join()

    def script() -> None:
        a.computing = Computing(first_s=0.25, end_s=1.0)
        kv(a, b, b"hidden", 20)  # 0.2 s on the wire
        b.computing = Computing(first_s=0.25, end_s=1.0)
        kv(b, c, b"longer than the step", 200)  # 2 s on the wire

    arrivals = dict(cluster.play(script))
    assert arrivals["hidden"] == pytest.approx(1.0 + 0.2 / 4 + LATENCY_S)
    assert arrivals["longer than the step"] == pytest.approx(0.25 + 2.0 + LATENCY_S)


def test_who_dies_is_missed_and_what_it_sent_is_lost() -> None:
    cluster = Cluster()
    a, b = cluster.join(), cluster.join()

    def script() -> None:
        kv(a, b, b"data", 10)
        cluster.links.kill(a.address)

    assert cluster.play(script) == []
    assert cluster.losses == [a.address]


def test_a_message_to_nobody_is_reported() -> None:
    cluster = Cluster()
    a, b = cluster.join(), cluster.join()

    def script() -> None:
        cluster.links.kill(b.address)
        a.send(b.address, b"open")

    assert cluster.play(script) == []
    assert cluster.losses == [b.address]


def test_a_closed_peer_hears_of_it_and_the_closer_does_not() -> None:
    cluster = Cluster()
    a, b = cluster.join(), cluster.join()

    def script() -> None:
        a.send(b.address, b"open")
        a.close(b.address)

    cluster.play(script)
    assert cluster.losses == [a.address]
