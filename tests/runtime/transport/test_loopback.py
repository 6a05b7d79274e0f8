"""What only the loopback does: a peer that dies in this process."""

from typing import Any

from mserve.runtime.transport.base import Received
from mserve.runtime.transport.loopback import LoopbackNetwork

Drive = Any  # the fixture of conftest.py


def test_a_killed_peer_is_lost_with_all_that_was_under_way(drive: Drive) -> None:
    network = LoopbackNetwork()
    a, victim, bystander = network.join(slots_per_peer=2), network.join(), network.join()
    for _ in range(2):
        slot = a.stage(victim.address, 10)
        assert slot is not None
        a.send(victim.address, b"kv", slot)
    slot = victim.stage(a.address, 10)
    assert slot is not None
    victim.send(a.address, b"kv", slot)
    assert a.stage(victim.address, 10) is None
    network.kill(victim.address)
    drive.until(lambda: drive.inbox(a).lost, a)
    assert [lost.peer for lost in drive.inbox(a).lost] == [victim.address]
    assert not drive.inbox(a).messages
    assert a.num_slots_held == 0
    assert victim.poll() == []
    a.send(bystander.address, b"hello")
    drive.until(lambda: drive.inbox(bystander).messages, a, bystander)
    a.close()
    bystander.close()


def test_a_poll_copies_no_more_than_one_payload() -> None:
    network = LoopbackNetwork()
    a, b = network.join(), network.join()
    for _ in range(4):
        slot = a.stage(b.address, 1 << 20)
        assert slot is not None
        a.send(b.address, b"kv", slot)
    polls = [[event for event in b.poll() if isinstance(event, Received)] for _ in range(3)]
    assert [len(arrived) for arrived in polls] == [2, 2, 0]
    a.close()
    b.close()
