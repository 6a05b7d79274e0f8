"""What every `Transport` promises, over the loopback and over UCX, all ends in this process."""

import random
import select
import time
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from mserve.runtime.transport.base import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, Received, Transport
from mserve.runtime.transport.loopback import LoopbackNetwork
from mserve.runtime.transport.ucx import UcxTransport

Drive = Any  # the fixture of conftest.py


class Join(Protocol):
    def __call__(self, *, num_slots: int = 8, slots_per_peer: int = 4) -> Transport: ...


@pytest.fixture(params=["loopback", "ucx"])
def join(request: pytest.FixtureRequest) -> Iterator[Join]:
    """Makes transports that reach each other; closes them in the end."""
    network = LoopbackNetwork()
    joined: list[Transport] = []

    def join(*, num_slots: int = 8, slots_per_peer: int = 4) -> Transport:
        make = UcxTransport if request.param == "ucx" else network.join
        joined.append(make(num_slots=num_slots, slots_per_peer=slots_per_peer))
        return joined[-1]

    yield join
    for transport in joined:
        transport.close()


def send_payload(transport: Transport, peer: bytes, header: bytes, payload: bytes) -> bool:
    slot = transport.stage(peer, len(payload))
    if slot is None:
        return False
    slot.view[:] = payload
    transport.send(peer, header, slot)
    return True


def fill(transport: Transport, peer: bytes, num_bytes: int = MAX_PAYLOAD_BYTES) -> int:
    """Sends payloads until there is no slot; how many."""
    count = 0
    while send_payload(transport, peer, b"%d" % count, bytes([count]) * num_bytes):
        count += 1
    return count


def count_free(transport: Transport, peer: bytes) -> int:
    """How many slots could be staged for `peer` now."""
    staged = list(iter(lambda: transport.stage(peer, 1), None))
    for slot in staged:
        slot.release()
    return len(staged)


def test_a_message_names_its_sender_who_can_be_answered(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    a.send(b.address, b"question")
    drive.until(lambda: drive.inbox(b).messages, a, b)
    assert drive.inbox(b).messages == [(a.address, b"question", b"")]
    b.send(a.address, b"answer")
    drive.until(lambda: drive.inbox(a).messages, a, b)
    assert drive.inbox(a).messages == [(b.address, b"answer", b"")]


@pytest.mark.parametrize("num_bytes", [1, 4096, 65_537, MAX_PAYLOAD_BYTES])
def test_payloads_of_every_size_arrive_unharmed(join: Join, drive: Drive, num_bytes: int) -> None:
    a, b = join(), join()
    payload = random.Random(num_bytes).randbytes(num_bytes)
    assert send_payload(a, b.address, b"kv", payload)
    drive.until(lambda: drive.inbox(b).messages, a, b)
    assert drive.inbox(b).messages == [(a.address, b"kv", payload)]


def test_the_largest_header_arrives_and_a_larger_one_is_a_bug(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    header = random.Random(1).randbytes(MAX_HEADER_BYTES)
    a.send(b.address, header)
    drive.until(lambda: drive.inbox(b).messages, a, b)
    assert drive.inbox(b).messages == [(a.address, header, b"")]
    with pytest.raises(AssertionError, match="16 KiB"):
        a.send(b.address, header + b"!")


def test_messages_with_and_without_payload_stay_in_order(join: Join, drive: Drive) -> None:
    """Three ends, all ways at once, sizes on both sides of every threshold."""
    ends = [join(), join(), join()]
    ways = [(a, b) for a in ends for b in ends if a is not b]
    rng = random.Random(7)
    plan = {
        (a.address, b.address): [rng.choice([0, 0, 100, 9000, 300_000]) for _ in range(30)]
        for a, b in ways
    }
    sent = dict.fromkeys(plan, 0)

    def send_more() -> bool:
        for a, b in ways:
            way = (a.address, b.address)
            while sent[way] < 30 and send_one(a, b.address, sent[way], plan[way][sent[way]]):
                sent[way] += 1
        return all(len(drive.inbox(end).messages) == 60 for end in ends)

    drive.until(send_more, *ends)
    for a, b in ways:
        got = [(h, len(p)) for sender, h, p in drive.inbox(b).messages if sender == a.address]
        assert got == [(b"%d" % i, size) for i, size in enumerate(plan[a.address, b.address])]


def send_one(transport: Transport, peer: bytes, number: int, num_bytes: int) -> bool:
    if num_bytes:
        return send_payload(transport, peer, b"%d" % number, bytes(num_bytes))
    transport.send(peer, b"%d" % number)
    return True


def test_both_may_introduce_themselves_at_once(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    for number in range(3):
        a.send(b.address, b"%d" % number)
        b.send(a.address, b"%d" % number)
    drive.until(lambda: len(drive.inbox(a).messages) == len(drive.inbox(b).messages) == 3, a, b)
    assert drive.inbox(a).headers(b.address) == [b"0", b"1", b"2"]
    assert drive.inbox(b).headers(a.address) == [b"0", b"1", b"2"]
    assert not drive.inbox(a).lost
    assert not drive.inbox(b).lost


def test_slots_are_bounded_per_peer_and_in_total(join: Join) -> None:
    a, b, c, d = join(num_slots=5, slots_per_peer=3), join(), join(), join()
    staged = [a.stage(b.address, 10) for _ in range(3)]
    assert None not in staged
    assert a.stage(b.address, 10) is None, "the peer's share is used up"
    assert a.stage(c.address, 10)
    assert a.stage(c.address, 10)
    assert a.stage(d.address, 10) is None, "the ring is used up"
    assert staged[0] is not None
    staged[0].release()
    assert a.stage(d.address, 10) is not None


def test_misused_slots_are_bugs(join: Join) -> None:
    a, b, c = join(), join(), join()
    slot = a.stage(b.address, 10)
    assert slot is not None
    assert len(slot.view) == 10
    with pytest.raises(AssertionError, match="staged for"):
        a.send(c.address, b"", slot)
    a.send(b.address, b"", slot)
    with pytest.raises(AssertionError, match=r"sent once|released slot"):
        a.send(b.address, b"", slot)
    with pytest.raises(AssertionError, match="one slot"):
        a.stage(b.address, MAX_PAYLOAD_BYTES + 1)


def test_a_slow_receiver_holds_the_sender_back_and_nobody_else(join: Join, drive: Drive) -> None:
    a, slow, quick = join(num_slots=8, slots_per_peer=4), join(), join()
    a.send(slow.address, b"hello")
    drive.until(lambda: drive.inbox(slow).messages, a, slow)
    assert fill(a, slow.address) == 4
    drive.until_idle(a)
    assert a.stage(slow.address, 1) is None, "unasked-for payloads keep their slots"
    assert send_payload(a, quick.address, b"kv", b"x" * 1000)
    drive.until(lambda: drive.inbox(quick).messages, a, quick)
    drive.until(lambda: len(drive.inbox(slow).messages) == 5, a, slow)
    drive.until(lambda: count_free(a, slow.address) == 4, a, slow)


def test_a_slot_that_comes_free_wakes_its_sender(join: Join, drive: Drive) -> None:
    a, b = join(slots_per_peer=2), join()
    assert fill(a, b.address) == 2
    drive.until(lambda: len(drive.inbox(b).messages) == 2, a, b)
    drive.until(lambda: count_free(a, b.address) == 2, a, b)
    assert fill(a, b.address) == 2
    drive.until_idle(a)
    descriptor = a.wakeup_fd()
    assert descriptor is not None
    drive.until(lambda: len(drive.inbox(b).messages) == 4, b)
    assert select.select([descriptor], [], [], 5)[0] == [descriptor]
    drive.until(lambda: count_free(a, b.address) > 0, a, b)


@pytest.mark.parametrize("num_bytes", [4096, 100_000])
def test_a_payload_stays_until_the_next_poll(join: Join, drive: Drive, num_bytes: int) -> None:
    a, b, receiver = join(), join(), join(num_slots=1, slots_per_peer=1)
    for sender in (a, b):
        sender.send(receiver.address, b"hello")
    drive.until_idle(a, b, receiver)
    for number in range(3):
        assert send_payload(a, receiver.address, b"", bytes([number]) * num_bytes)
        assert send_payload(b, receiver.address, b"", bytes([number + 3]) * num_bytes)
    drive.until_idle(a, b, idle_s=0.01)
    seen: list[bytes] = []
    deadline_s = time.monotonic() + 10
    while len(seen) < 6 and time.monotonic() < deadline_s:
        events = [event for event in receiver.poll() if isinstance(event, Received)]
        assert len(events) <= 1, "there is one slot to receive into"
        for _ in range(20):
            a.poll()  # the senders go on; nothing may write into what the receiver reads
            b.poll()
        seen += [bytes(event.payload) for event in events]
    assert sorted(seen) == [bytes([number]) * num_bytes for number in range(6)]


def test_a_burst_needs_no_further_message_to_be_delivered(join: Join, drive: Drive) -> None:
    """More than one poll's budget arrives at once, and then nothing wakes the receiver."""
    a, b = join(), join()
    a.send(b.address, b"hello")
    drive.until_idle(a, b)
    for number in range(3000):
        a.send(b.address, b"%d" % number)
    drive.until_idle(a, idle_s=0.01)
    drive.until(lambda: len(drive.inbox(b).messages) == 3001, b)
    assert drive.inbox(b).headers(a.address)[1:] == [b"%d" % number for number in range(3000)]


def test_no_sender_starves_for_slots(join: Join, drive: Drive) -> None:
    receiver = join(num_slots=2, slots_per_peer=1)
    senders = [join() for _ in range(5)]
    for sender in senders:
        assert fill(sender, receiver.address, 20_000) == 4
    drive.until(lambda: len(drive.inbox(receiver).messages) == 20, receiver, *senders)
    for sender in senders:
        assert drive.inbox(receiver).headers(sender.address) == [b"0", b"1", b"2", b"3"]


def test_an_idle_transport_sleeps_and_wakes_for_a_message(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    a.send(b.address, b"hello")
    drive.until(lambda: drive.inbox(b).messages, a, b)
    drive.until_idle(a, b)
    descriptor = b.wakeup_fd()
    assert descriptor is not None
    assert not select.select([descriptor], [], [], 0.2)[0], "an idle transport keeps quiet"
    a.send(b.address, b"wake up")
    assert select.select([descriptor], [], [], 5)[0]
    drive.until(lambda: len(drive.inbox(b).messages) == 2, b)


def test_closing_a_peer_is_seen_there_and_not_here(join: Join, drive: Drive) -> None:
    a, b, bystander = join(), join(), join()
    a.send(b.address, b"hello")
    a.send(bystander.address, b"hello")
    ends = (a, b, bystander)
    drive.until(lambda: drive.inbox(b).messages and drive.inbox(bystander).messages, *ends)
    a.close(b.address)
    drive.until(lambda: drive.inbox(b).lost, *ends)
    assert [lost.peer for lost in drive.inbox(b).lost] == [a.address]
    bystander.send(a.address, b"still here")
    drive.until(lambda: drive.inbox(a).messages, *ends)
    assert not drive.inbox(a).lost
    assert not drive.inbox(bystander).lost


def test_a_closed_peer_can_be_met_again(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    for number in range(3):
        a.send(b.address, b"before")
        drive.until(lambda: b"before" in drive.inbox(b).headers(a.address), a, b)
        a.close(b.address)
        a.send(b.address, b"after")
        b.send(a.address, b"crossing")
        drive.until(lambda: b"after" in drive.inbox(b).headers(a.address), a, b)
        drive.until_idle(a, b)
        a.send(b.address, b"last")
        drive.until(lambda: b"last" in drive.inbox(b).headers(a.address), a, b)
        assert len(drive.inbox(b).lost) >= number + 1
        drive.inbox(b).messages.clear()


def test_closing_a_peer_voids_what_is_under_way(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    a.send(b.address, b"hello")
    drive.until(lambda: drive.inbox(b).messages, a, b)
    assert fill(a, b.address) == 4
    drive.inbox(a).poll(a)
    drive.inbox(b).poll(b)
    a.close(b.address)
    drive.until(lambda: drive.inbox(b).lost, a, b)
    drive.until(lambda: count_free(a, b.address) == 4, a, b)
    assert fill(a, b.address) == 4
    drive.until(lambda: drive.inbox(b).headers(a.address)[-4:] == [b"0", b"1", b"2", b"3"], a, b)
    payloads = [(header, payload) for _, header, payload in drive.inbox(b).messages if payload]
    assert all(payload == bytes([int(header)]) * MAX_PAYLOAD_BYTES for header, payload in payloads)


def test_closing_before_the_peer_ever_answered_leaves_nothing(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    assert fill(a, b.address) == 4
    a.close(b.address)
    assert fill(a, b.address) == 4, "what had not left was free at once"
    drive.until(lambda: drive.inbox(b).headers(a.address)[-4:] == [b"0", b"1", b"2", b"3"], a, b)


def test_closing_everything_is_seen_by_every_peer(join: Join, drive: Drive) -> None:
    a, b, c = join(), join(), join()
    for sender, receiver in ((a, b), (b, a), (a, c)):
        send_payload(sender, receiver.address, b"hello", b"x" * 100_000)
    drive.until(lambda: all(drive.inbox(end).messages for end in (a, b, c)), a, b, c)
    drive.until_idle(a, b, c)
    fill(a, b.address)
    fill(b, a.address)
    started_s = time.monotonic()
    a.close()
    a.close()
    assert time.monotonic() - started_s < 1
    assert a.poll() == []
    drive.until(lambda: drive.inbox(b).lost and drive.inbox(c).lost, b, c)
    drive.until_idle(b, c)
    b.send(c.address, b"we go on")
    drive.until(lambda: drive.inbox(c).headers(b.address), b, c)


def test_an_address_of_nobody_is_a_lost_peer(join: Join, drive: Drive) -> None:
    a = join()
    assert send_payload(a, b"nobody", b"kv", b"payload")
    drive.until(lambda: drive.inbox(a).lost, a)
    assert {lost.peer for lost in drive.inbox(a).lost} == {b"nobody"}
    assert count_free(a, b"nobody") == 4


def test_a_new_transport_never_has_the_address_of_an_old_one(join: Join, drive: Drive) -> None:
    a, b = join(), join()
    a.send(b.address, b"hello")
    drive.until(lambda: drive.inbox(b).messages, a, b)
    b.close()
    drive.until(lambda: drive.inbox(a).lost, a)
    restarted = join()
    assert restarted.address != b.address
    a.send(restarted.address, b"hello")
    drive.until(lambda: drive.inbox(restarted).messages, a, restarted)
