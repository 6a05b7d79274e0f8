"""Intervals of time, added up in bins: memory is bounded, however long the time becomes.

Bins become twice as wide when the time outgrows them. Knows neither workers nor what they do.
"""

from collections.abc import Hashable

NUM_BINS = 128
FIRST_WIDTH_S = 2.0**-10  # as all of its doubles a binary fraction: edges of bins are exact


class TimeBins:
    """Seconds of each bin that intervals cover, by their key. All keys have the same bins, from time
    zero on. Intervals come in any order; those that overlap count more than once."""

    def __init__(self) -> None:
        self.width_s = FIRST_WIDTH_S
        self.end_s = 0.0  # of the interval that ends last
        self._covered_s: dict[Hashable, list[float]] = {}

    def add(self, key: Hashable, begin_s: float, end_s: float) -> None:
        assert 0 <= begin_s <= end_s, "An interval ends after it began, and time begins at zero."
        self.end_s = max(self.end_s, end_s)
        while end_s > self.width_s * NUM_BINS:
            self._widen()
        covered_s, width_s = self._covered_s.setdefault(key, [0.0] * NUM_BINS), self.width_s
        first = min(NUM_BINS - 1, int(begin_s / width_s))
        last = min(NUM_BINS - 1, int(end_s / width_s))
        if first == last:
            covered_s[first] += end_s - begin_s
            return
        covered_s[first] += (first + 1) * width_s - begin_s
        for index in range(first + 1, last):
            covered_s[index] += width_s
        covered_s[last] += end_s - last * width_s

    def covered_s(self, key: Hashable) -> list[float]:
        """Of each bin."""
        return list(self._covered_s.get(key, [0.0] * NUM_BINS))

    def _widen(self) -> None:
        self.width_s *= 2
        for key, narrow in self._covered_s.items():
            pairs = zip(narrow[::2], narrow[1::2], strict=True)
            self._covered_s[key] = [a + b for a, b in pairs] + [0.0] * (NUM_BINS // 2)
