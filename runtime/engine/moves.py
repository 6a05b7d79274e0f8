"""What a step copies before it computes: page numbers, no contents.

The order is saves, restores, copies; within each the order is free, no target is named twice. All
of it comes before anything else reads or writes a page, transfers included.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PageCopy:
    """The KV of the first `num_positions` of page `source`, in every layer, to page `target`."""

    source: int
    target: int
    num_positions: int


@dataclass(frozen=True, slots=True)
class Moves:
    """`saves` are (page, host page), `restores` (host page, page): whole pages, every layer."""

    saves: tuple[tuple[int, int], ...] = ()
    restores: tuple[tuple[int, int], ...] = ()
    copies: tuple[PageCopy, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.saves or self.restores or self.copies)


NO_MOVES = Moves()


@dataclass(slots=True)
class MoveList:
    """The moves of the next batch, as they come up while it is planned."""

    _saves: dict[int, int] = field(default_factory=dict)  # host page -> page
    _restores: list[tuple[int, int]] = field(default_factory=list)
    _copies: list[PageCopy] = field(default_factory=list)

    def save(self, page: int, host_page: int) -> None:
        """In place of an earlier one to this host page: what that saved has been forgotten since."""
        self._saves[host_page] = page

    def restore(self, host_page: int, page: int) -> None:
        self._restores.append((host_page, page))

    def copy(self, source: int, target: int, num_positions: int) -> None:
        self._copies.append(PageCopy(source, target, num_positions))

    def take(self) -> Moves:
        """All of them; the list is empty then."""
        if not (self._saves or self._restores or self._copies):
            return NO_MOVES
        saves = tuple((page, host_page) for host_page, page in self._saves.items())
        moves = Moves(saves, tuple(self._restores), tuple(self._copies))
        self._saves, self._restores, self._copies = {}, [], []
        return moves


class MoveFailure(Exception):
    """Pages no longer hold what the cache says they do: whoever owns them must end."""
