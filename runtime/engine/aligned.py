"""Which of the sequences that are ready to decode are in the batch: those of similar KV length
(AlignedServe, arXiv 2605.23389), where that is predicted to pay.

An attention kernel that gives each sequence its own blocks ends when the longest one does, so short
ones beside it are done early and their share of the GPU idles. Sequences of one length waste nothing;
to find enough of them, more must be ready than a batch can hold. Owns who is in the batch, and since
when the others wait. No clock, no torch, no pages: lengths go in, and the time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Generic, TypeVar

from mserve.runtime.engine.decode_cost import Room

T = TypeVar("T", bound=Hashable)

LAST_PATIENCE = 8
"""So many times the patience is waited for a batch of the right length; then comes plain order."""
LEAST_FILL = 0.5
"""A batch below this share of its room takes also longer ones, whatever the spread."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Of `batch = aligned(...)`. `spread`: longest over shortest of a batch; `patience_s`: how long
    one that is ready may be passed over; `fill`: the share of a batch below which it is refilled."""

    spread: float = 2.0
    patience_s: float = 0.05
    fill: float = 0.8


@dataclass(frozen=True, slots=True)
class Window:
    """Sequences [begin, end) of those sorted by length."""

    begin: int
    end: int


class Ladder(Generic[T]):
    """Sequences that could be in a batch, by length, the shortest first.

    `ages` are 0 for those in the batch that runs, and for the others up to 1, for one that is about
    to be overdue.
    """

    def __init__(
        self, lengths: Mapping[T, int], ages: Mapping[T, float], survivors: Container[T]
    ) -> None:
        self.items = sorted(lengths, key=lengths.__getitem__)
        self._lengths = [lengths[item] for item in self.items]
        self._positions = [0, *accumulate(self._lengths)]
        self._ages = [0.0, *accumulate(ages[item] for item in self.items)]
        self._survivors = [0, *accumulate(item in survivors for item in self.items)]

    def best(self, room: Room, spread: float, anchor: int | None) -> Window:
        """The window of the highest score: how full it is, plus how old on average, minus the share of
        survivors that it leaves out. With an anchor, a length that is in the batch anyway, it has all
        within the spread below that, and of those above what scores best; if there are none of either,
        the next shorter ones."""
        ends = range(1, len(self.items) + 1)
        if anchor is not None:
            first, last = (bisect_right(self._lengths, top) for top in (anchor, anchor * spread))
            is_near = first and self._lengths[first - 1] * spread >= anchor
            ends = range(first if is_near or first == last else first + 1, last + 1)
        windows = [self._ending(end, room, spread) for end in ends]
        return max(windows, key=lambda each: self._score(each, room), default=Window(0, 0))

    def _ending(self, end: int, room: Room, spread: float) -> Window:
        """As many as fit below `end`."""
        end = min(end, len(self.items))
        if not end:
            return Window(0, 0)
        alike = bisect_left(self._lengths, self._lengths[end - 1] / spread)
        fits = bisect_left(self._positions, self._positions[end] - room.positions)
        begin = min(end, max(alike, fits, end - room.sequences))
        return Window(begin, end)

    def _score(self, window: Window, room: Room) -> float:
        size = window.end - window.begin
        if not size:
            return -1.0
        num_positions = self._positions[window.end] - self._positions[window.begin]
        fill = max(size / room.sequences, num_positions / room.positions)
        age = (self._ages[window.end] - self._ages[window.begin]) / size
        num_stay = self._survivors[window.end] - self._survivors[window.begin]
        left_out = 1 - num_stay / self._survivors[-1] if self._survivors[-1] else 0.0
        return fill + age - left_out


class AlignedPolicy(Generic[T]):
    """A batch stays together until less than `fill` of its room is used and someone comes or goes, or
    until someone is overdue: has been passed over for `patience_s`. Then it is formed anew, of

    1. the one overdue for longest; and, the longest waiting first, all who have been passed over for
       `LAST_PATIENCE` times that: plain order, if there are many of them
    2. the best window of similar lengths (`Ladder.best`); beside those it begins at the longest's
       length, whose time is paid for
    3. shorter ones in what room is left, of those in the batch before first: they cost their own bytes
       and nothing else. Below `LEAST_FILL` of the room also the next longer ones

    While anyone is overdue, it is formed anew `patience_s` after it was formed last, at the end of the
    step that runs then. So one passed over from t on is in the batch by `t + LAST_PATIENCE * patience_s
    + m * (patience_s + T)`, T the longest step: m - 1 batches take the k others that have waited as
    long or longer, k of them at most, and floor(k / sequences) where the positions of any so many fit.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment
        self._members: dict[T, None] = {}
        self._since: dict[T, float] = {}  # of those passed over, the longest waiting first
        self._formed_s = -inf
        self.until = inf  # when to choose again, if nobody comes or goes before

    def __contains__(self, item: T) -> bool:
        return item in self._members

    def choose(self, lengths: Mapping[T, int], room: Room, now: float) -> Container[T]:
        """Who is in the batch, of those ready, by the lengths of their contexts."""
        has_changed, is_due = self._note(lengths, now), now >= self.until
        if is_due or (has_changed and self._since and self._is_low(lengths, room)):
            self._form(lengths, room, now)
        self.until = self._next_due()
        return self._members.keys()

    def forget(self) -> None:
        """There is room for all who are ready: nobody is passed over."""
        if self._members or self._since:
            self._members, self._since = {}, {}
        self.until = inf

    # --- inside --------------------------------------------------------------------------------

    def _note(self, lengths: Mapping[T, int], now: float) -> bool:
        """Whether anyone came or went."""
        gone = [item for item in (*self._members, *self._since) if item not in lengths]
        for item in gone:
            self._members.pop(item, None)
            self._since.pop(item, None)
        if len(lengths) == len(self._members) + len(self._since):
            return bool(gone)
        for item in lengths:
            if item not in self._members:
                self._since.setdefault(item, now)
        return True

    def _next_due(self) -> float:
        if not self._since:
            return inf
        patience_s = self._alignment.patience_s
        return max(next(iter(self._since.values())), self._formed_s) + patience_s

    def _is_low(self, lengths: Mapping[T, int], room: Room) -> bool:
        num_positions = sum(lengths[item] for item in self._members)
        fill = max(len(self._members) / room.sequences, num_positions / room.positions)
        return fill < self._alignment.fill

    def _form(self, lengths: Mapping[T, int], room: Room, now: float) -> None:
        draft = _Draft(lengths, room)
        draft.take_first(self._overdue(now))
        anchor = max((lengths[item] for item in draft.chosen), default=None)
        others = {item: length for item, length in lengths.items() if item not in draft.chosen}
        ages = {item: self._age(item, now) for item in others}
        ladder = Ladder(others, ages, self._members)
        window = ladder.best(draft.room, self._alignment.spread, anchor)
        draft.take(ladder.items[window.begin : window.end])
        shorter = ladder.items[: window.begin][::-1]
        draft.take(sorted(shorter, key=lambda item: self._since.get(item, -inf)))
        if len(draft.chosen) < LEAST_FILL * room.sequences:
            draft.take(ladder.items[window.end :])
        self._become(draft, now)
        self._formed_s = now

    def _overdue(self, now: float) -> Iterator[T]:
        """The one who is so for longest, and whoever is at the end of all patience."""
        limit_s = self._alignment.patience_s
        for item, at_s in self._since.items():
            if at_s + limit_s > now:
                return
            limit_s = LAST_PATIENCE * self._alignment.patience_s
            yield item

    def _age(self, item: T, now: float) -> float:
        if item not in self._since:
            return 0.0
        return min(1.0, (now - self._since[item]) / max(self._alignment.patience_s, 1e-9))

    def _become(self, draft: "_Draft[T]", now: float) -> None:
        for item in draft.chosen:
            self._since.pop(item, None)
        for item in self._members:
            if item not in draft.chosen:
                self._since[item] = now
        self._members = draft.chosen


class _Draft(Generic[T]):
    """A batch while it is formed."""

    def __init__(self, lengths: Mapping[T, int], room: Room) -> None:
        self._lengths = lengths
        self.room = room  # that is left
        self.chosen: dict[T, None] = {}

    def take(self, items: Iterable[T]) -> None:
        """All that fit."""
        for item in items:
            self._take(item)

    def take_first(self, items: Iterable[T]) -> None:
        """Up to the first that does not fit."""
        for item in items:
            if not self._take(item):
                return

    def _take(self, item: T) -> bool:
        """Alone, anyone fits."""
        length = self._lengths[item]
        if self.chosen and (length > self.room.positions or not self.room.sequences):
            return False
        self.chosen[item] = None
        self.room = Room(self.room.sequences - 1, max(0, self.room.positions - length))
        return True
