"""Announcements that overtook their plan call: kept for a moment, for their ticket, and not too many."""

import pytest

from mserve.runtime.worker import parking, wire
from mserve.runtime.worker.parking import PARKED_OPEN_S, Parking


def announcement(ticket: str) -> wire.Open:
    return wire.Open(ticket, "w-0", "", "layout", 0, 10)


def test_an_announcement_waits_for_its_ticket() -> None:
    parked = Parking()
    assert parked.park(b"a", announcement("t"), 1.0)
    assert parked.take("other") is None
    assert parked.take("t") == (b"a", announcement("t"))
    assert parked.take("t") is None


def test_each_waits_for_the_same_time() -> None:
    parked = Parking()
    for ticket, now in (("t", 1.0), ("u", 1.5), ("t", 2.0)):  # said twice, it begins anew
        parked.park(b"a", announcement(ticket), now)
    assert list(parked.take_expired(1.5 + PARKED_OPEN_S - 0.01)) == []
    assert list(parked.take_expired(1.5 + PARKED_OPEN_S)) == [(b"a", "u")]
    assert list(parked.take_expired(2.0 + PARKED_OPEN_S)) == [(b"a", "t")]


def test_only_its_sender_withdraws_it() -> None:
    parked = Parking()
    parked.park(b"a", announcement("t"), 0.0)
    assert parked.withdraw("t", b"b")
    assert parked.withdraw("t", b"a")
    assert not parked.withdraw("t", b"a")


def test_those_of_a_lost_peer_go_with_it() -> None:
    parked = Parking()
    for peer, ticket in ((b"a", "t"), (b"b", "u"), (b"a", "v")):
        parked.park(peer, announcement(ticket), 0.0)
    parked.lose(b"a")
    assert list(parked.take_expired(100.0)) == [(b"b", "u")]


def test_there_are_never_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MAX_PARKED", 2)
    parked = Parking()
    assert [parked.park(b"a", announcement(ticket), 0.0) for ticket in "tuv"] == [True, True, False]
    parked.take("t")
    assert parked.park(b"a", announcement("v"), 0.0)
