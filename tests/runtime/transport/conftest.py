"""Drives transports as an engine loop does: poll, and sleep on the wake-up descriptors."""

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from mserve.runtime.transport.base import PeerLost, Received, Transport

TIMEOUT_S = 10.0


@dataclass
class Inbox:
    """What one transport was told. Payloads are copied: they are valid until the next poll."""

    messages: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    lost: list[PeerLost] = field(default_factory=list)

    def poll(self, transport: Transport) -> None:
        for event in transport.poll():
            if isinstance(event, Received):
                self.messages.append((event.peer, event.header, bytes(event.payload)))
            else:
                self.lost.append(event)

    def headers(self, peer: bytes) -> list[bytes]:
        return [header for sender, header, _ in self.messages if sender == peer]


def sleep_until_ready(transports: Sequence[Transport], timeout_s: float) -> bool:
    """Whether one of them woke up."""
    descriptors = [transport.wakeup_fd() for transport in transports]
    armed = [descriptor for descriptor in descriptors if descriptor is not None]
    if len(armed) < len(descriptors):
        return True
    return bool(select.select(armed, [], [], timeout_s)[0])


class Drive:
    """Polls several transports of this process until a condition holds."""

    def __init__(self) -> None:
        self._inboxes: dict[bytes, Inbox] = {}

    def inbox(self, transport: Transport) -> Inbox:
        return self._inboxes.setdefault(transport.address, Inbox())

    def until(self, condition: Callable[[], bool], *transports: Transport) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            remaining_s = deadline_s - time.monotonic()
            assert remaining_s > 0, "what was waited for did not happen"
            sleep_until_ready(transports, remaining_s)
            for transport in transports:
                self.inbox(transport).poll(transport)

    def until_idle(self, *transports: Transport, idle_s: float = 0.05) -> None:
        while sleep_until_ready(transports, idle_s):
            for transport in transports:
                self.inbox(transport).poll(transport)


@pytest.fixture
def drive() -> Drive:
    return Drive()
