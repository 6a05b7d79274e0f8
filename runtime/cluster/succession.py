"""Which incarnation of each worker is the latest: one that was replaced never comes back.

Without this a frozen worker that thaws after its successor has started would take its name back.
In-memory form; the Redis forms keep the same as a list per worker.
"""

from mserve.runtime.errors import Gone


class Succession:
    """The incarnations of each worker, the latest last."""

    def __init__(self) -> None:
        self._incarnations: dict[str, list[str]] = {}

    def admits(self, worker: str, incarnation: str) -> bool:
        """Whether it is the latest, or new (then it becomes the latest)."""
        known = self._incarnations.setdefault(worker, [])
        if incarnation not in known:
            known.append(incarnation)
        return known[-1] == incarnation

    def admit(self, worker: str, incarnation: str) -> None:
        """Raises Gone if a later incarnation has replaced this one."""
        if not self.admits(worker, incarnation):
            raise replaced(worker, incarnation)


def replaced(worker: str, incarnation: str) -> Gone:
    return Gone(f"Incarnation {incarnation} of worker {worker} was replaced by a later one.")
