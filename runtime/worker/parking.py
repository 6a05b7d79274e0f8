"""Announcements of sends whose ticket is not there yet: an Open may overtake the plan call that names
it. Each waits for a moment, and there are never many. Knows no ticket.
"""

from collections import OrderedDict
from collections.abc import Iterator

from mserve.runtime.worker import wire

PARKED_OPEN_S = 2.0
MAX_PARKED = 4096


class Parking:
    """By the ticket that is announced; times are the driver's."""

    def __init__(self) -> None:
        self._parked: OrderedDict[str, tuple[bytes, wire.Open, float]] = OrderedDict()

    def park(self, peer: bytes, message: wire.Open, now: float) -> bool:
        """False if there are too many."""
        if len(self._parked) >= MAX_PARKED:
            return False
        self._parked[message.ticket] = (peer, message, now + PARKED_OPEN_S)
        self._parked.move_to_end(message.ticket)  # the first to expire is the first
        return True

    def take(self, ticket: str) -> tuple[bytes, wire.Open] | None:
        """The announcement, for the ticket that is there now."""
        parked = self._parked.pop(ticket, None)
        return None if parked is None else parked[:2]

    def withdraw(self, ticket: str, peer: bytes) -> bool:
        """Whether there was one; only its own sender ends it."""
        parked = self._parked.get(ticket)
        if parked is not None and parked[0] == peer:
            del self._parked[ticket]
        return parked is not None

    def lose(self, peer: bytes) -> None:
        for ticket in [name for name, (sender, *_) in self._parked.items() if sender == peer]:
            del self._parked[ticket]

    def take_expired(self, now: float) -> Iterator[tuple[bytes, str]]:
        """(peer, ticket) of those that no plan has claimed in time."""
        while self._parked:
            ticket, (peer, _, deadline_s) = next(iter(self._parked.items()))
            if deadline_s > now:
                return
            del self._parked[ticket]
            yield peer, ticket
