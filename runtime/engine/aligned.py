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

    What it is worth to take one: 0 for those in the batch that runs, and for the others up to 1, if it
    is about to be overdue; less 1 if its KV would have to be moved.
    """

    def __init__(
        self, lengths: Mapping[T, int], worths: Mapping[T, float], survivors: Container[T]
    ) -> None:
        self.items = sorted(lengths, key=lengths.__getitem__)
        self._lengths = [lengths[item] for item in self.items]
        self._positions = [0, *accumulate(self._lengths)]
        self._worths = [0.0, *accumulate(worths[item] for item in self.items)]
        self._survivors = [0, *accumulate(item in survivors for item in self.items)]

    def best(self, room: Room, spread: float, anchor: int | None) -> Window:
        """The window of the highest score: how full it is, plus the mean of what it is worth to take
        these, minus the share of survivors that it leaves out. With an anchor, a length that is in the
        batch anyway, it has those within the spread below that, and of those above what scores best;
        if there are none of either, the next shorter ones."""
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
        worth = (self._worths[window.end] - self._worths[window.begin]) / size
        num_stay = self._survivors[window.end] - self._survivors[window.begin]
        left_out = 1 - num_stay / self._survivors[-1] if self._survivors[-1] else 0.0
        return fill + worth - left_out


class AlignedPolicy(Generic[T]):
    """A batch stays together until less than `fill` of its room is used and someone comes or goes, or
    until someone is overdue: has been passed over for `patience_s`. Then it is formed anew, of

    1. the one overdue for longest; and, the longest waiting first, all who have been passed over for
       `LAST_PATIENCE` times as long: plain order, if there are many of them
    2. the best window of similar lengths (`Ladder.best`); beside those it begins at the longest's
       length, whose time is paid for
    3. shorter ones in what room is left, those first that were in the batch: they cost their own bytes
       and nothing else. Below `LEAST_FILL` of the room also the next longer ones

    While anyone is overdue, it is formed anew P after it was formed last, at the end of the step that
    runs then; P is `patience_s` and what `stay` added. So one passed over from t on is in the batch by
    `t + LAST_PATIENCE * P + m * (P + T)` for the greatest P and the longest step T: m - 1 batches take
    the k others that have waited as long or longer, k of them at most, and floor(k / sequences) where
    the positions of any so many fit.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment
        self._members: dict[T, None] = {}
        self._since: dict[T, float] = {}  # of those passed over, the longest waiting first
        self._formed_s = -inf
        self._stay_s = alignment.patience_s  # of the batch formed last, if someone is overdue
        self.until = inf  # when to choose again, if nobody comes or goes before

    def __contains__(self, item: T) -> bool:
        return item in self._members

    def choose(
        self, lengths: Mapping[T, int], room: Room, now: float, far: Container[T] = ()
    ) -> Container[T]:
        """Who is in the batch, of those ready, by the lengths of their contexts. KV of those who are
        `far` would have to be moved first."""
        has_changed, is_due = self._note(lengths, now), now >= self.until
        if is_due or (has_changed and self._since and self._is_low(lengths, room)):
            self._form(lengths, room, now, far)
        self.until = self._next_due()
        return self._members.keys()

    def stay(self, longer_s: float) -> None:
        """To form the batch has cost something: it is formed anew later by so much, if it is full."""
        self._stay_s += longer_s
        self.until = self._next_due()

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
        first_due_s = next(iter(self._since.values())) + self._alignment.patience_s
        return max(first_due_s, self._formed_s + self._stay_s)

    def _is_low(self, lengths: Mapping[T, int], room: Room) -> bool:
        num_positions = sum(lengths[item] for item in self._members)
        fill = max(len(self._members) / room.sequences, num_positions / room.positions)
        return fill < self._alignment.fill

    def _form(self, lengths: Mapping[T, int], room: Room, now: float, far: Container[T]) -> None:
        draft = _Draft(lengths, room)
        draft.take_first(self._overdue(now))
        anchor = max((lengths[item] for item in draft.chosen), default=None)
        others = {item: length for item, length in lengths.items() if item not in draft.chosen}
        worths = {item: self._age(item, now) - (item in far) for item in others}
        ladder = Ladder(others, worths, self._members)
        window = ladder.best(draft.room, self._alignment.spread, anchor)
        draft.take(ladder.items[window.begin : window.end])
        shorter = ladder.items[: window.begin][::-1]
        draft.take(sorted(shorter, key=lambda item: (item in far, self._since.get(item, -inf))))
        if len(draft.chosen) < LEAST_FILL * room.sequences:
            draft.take(ladder.items[window.end :])
        self._become(draft, now)
        self._formed_s, self._stay_s = now, self._alignment.patience_s

    def _overdue(self, now: float) -> Iterator[T]:
        """The one who is so for longest, and whoever is at the end of all patience."""
        limit_s = self._alignment.patience_s
        for item, at_s in self._since.items():
            if at_s + limit_s > now:
                return
            limit_s = LAST_PATIENCE * self._stay_s
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
