"""The queue of Preble's local scheduler: by how much of a prompt is cached, and starving nobody
(Preble, arXiv 2407.00023, section 3.3).
"""

from collections.abc import Callable, Iterator

from mserve.runtime.engine.sequence import Sequence


class HitRatioQueue:
    """A `Queue` of `num_groups` lines. A sequence joins the line of its cached share, 63% the seventh
    of ten, and stays there; lines are first come, first served.

    Line i has weight i + 1, and turns go to the lines in proportion, spread evenly (smooth weighted
    round robin). While k lines wait, weights summing to W, a line of weight w gets its turn within
    ceil(W / w) + k others; so whoever stands at place p of it is overtaken by at most
    p * (ceil(W / w) + k), whoever else arrives.
    """

    def __init__(self, num_groups: int, cached_share: Callable[[Sequence], float]) -> None:
        """`cached_share` is of the prompt, 0 to 1, as of now."""
        self._cached_share = cached_share
        self._lines: list[dict[Sequence, None]] = [{} for _ in range(num_groups)]
        self._credits = [0] * num_groups
        self._line_of: dict[Sequence, int] = {}
        self._chosen: Sequence | None = None  # has its turn, until it leaves

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._line_of

    def add(self, sequence: Sequence) -> None:
        last = len(self._lines) - 1
        line = min(last, int(self._cached_share(sequence) * len(self._lines)))
        self._line_of[sequence] = line
        self._lines[line][sequence] = None

    def remove(self, sequence: Sequence) -> None:
        line = self._line_of.pop(sequence, None)
        if line is None:
            return
        del self._lines[line][sequence]
        if self._chosen is sequence:
            self._chosen = None

    def first(self) -> Sequence | None:
        if self._chosen is None and self._line_of:
            self._chosen = next(iter(self._lines[self._turn()]))
        return self._chosen

    def __len__(self) -> int:
        return len(self._line_of)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._line_of)

    def _turn(self) -> int:
        """The line with the most credit: every line that waits gets its weight, the chosen one pays
        for all."""
        waiting = [line for line, members in enumerate(self._lines) if members]
        for line in waiting:
            self._credits[line] += line + 1
        chosen = max(waiting, key=lambda line: (self._credits[line], line))
        self._credits[chosen] -= sum(line + 1 for line in waiting)
        for line, members in enumerate(self._lines):
            if not members:
                self._credits[line] = 0  # no credit is saved up in absence
        return chosen
