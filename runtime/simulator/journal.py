"""What happened in a virtual cluster, in order: for people who look for a mistake, and as a digest."""

from collections.abc import Iterator
from itertools import islice

from xxhash import xxh3_64

Entry = tuple[float, str, tuple[object, ...]]


class Journal:
    """Entries are (seconds, what, about what)."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def note(self, now: float, what: str, *about: object) -> None:
        self._entries.append((now, what, about))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def digest(self) -> str:
        """The same for the same run, in every process."""
        state = xxh3_64()
        for line in self._lines(self._entries):
            state.update(line.encode())
        return state.hexdigest()

    def last(self, num_entries: int) -> list[str]:
        first = max(0, len(self._entries) - num_entries)
        return list(self._lines(list(islice(self._entries, first, None))))

    @staticmethod
    def _lines(entries: list[Entry]) -> Iterator[str]:
        for now, what, about in entries:
            yield f"{now:12.6f}  {what:<10} {' '.join(map(str, about))}"
