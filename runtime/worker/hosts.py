"""What the two sides of KV transfers ask of the worker they live in; plans.py answers."""

from typing import Protocol

from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import RequestError
from mserve.runtime.worker.ticket import Ticket


class TransferHost(Protocol):
    """What both ask."""

    def sequence(self, key: str) -> Sequence | None: ...

    def fail(self, key: str, error: RequestError, step: str, now: float) -> None:
        """The plan cannot go on at this worker."""
        ...

    def hold(self, key: str, name: str) -> None:
        """The plan's pages will be read or written: they stay until `let_go`."""
        ...

    def let_go(self, name: str) -> None: ...


class SenderHost(TransferHost, Protocol):
    def sent(self, key: str, step: str, num_tokens: int, num_bytes: int, now: float) -> None:
        """Every receiver of the step has everything."""
        ...


class ReceiverHost(TransferHost, Protocol):
    def opened(self, key: str, ticket: str, now: float) -> None:
        """The sender is there: the sequence may be given pages."""
        ...

    def arrived(self, key: str, ticket: str, now: float) -> None:
        """All of the ticket's KV is in the pages, and the plan uses it."""
        ...

    def received(self, ticket: Ticket, now: float) -> None:
        """The step that made the ticket is done."""
        ...
