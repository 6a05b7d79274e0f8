"""A set of token positions, kept as disjoint half-open ranges. Knows nothing of plans."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Intervals:
    """Sorted, disjoint `[begin, end)`; neighbours that touch are one."""

    ranges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, begin: int, end: int) -> None:
        if begin >= end:
            return
        apart = []
        for other_begin, other_end in self.ranges:
            if other_end < begin or other_begin > end:
                apart.append((other_begin, other_end))
            else:
                begin, end = min(begin, other_begin), max(end, other_end)
        self.ranges = sorted([*apart, (begin, end)])

    def covers(self, begin: int, end: int) -> bool:
        return not self.missing(begin, end)

    def overlaps(self, begin: int, end: int) -> bool:
        return any(b < end and begin < e for b, e in self.ranges if begin < end)

    def missing(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The parts of `[begin, end)` that are not in the set, in order."""
        gaps = []
        for other_begin, other_end in self.ranges:
            if begin < min(other_begin, end):
                gaps.append((begin, min(other_begin, end)))
            begin = max(begin, other_end)
        if begin < end:
            gaps.append((begin, end))
        return gaps

    def __str__(self) -> str:
        return ", ".join(f"[{begin}, {end})" for begin, end in self.ranges) or "nothing"
