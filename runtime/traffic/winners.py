"""Which of several values is best, and when a difference is too small to say so.

Owns the one rule that tables, pages and verdicts name winners by. Knows neither figures nor runs.
"""

from collections.abc import Callable, Sequence

SMALL = 0.02  # of the larger value: by less nobody is better
SMALL_SHARE = 0.01  # of figures that are shares themselves: one point
FEW_FAILED = 0.001  # of all requests; that they fail is no noise, how many is
RULE = "Best means more than 2% ahead of the next, in goodput more than a point"


Doubt = Callable[[int, int], float]
"""By how much the difference of two values, given by their indexes, may be off."""


def leaders(
    values: Sequence[float | None],
    sign: int,
    *,
    small: float | None = None,
    doubt: Doubt = lambda one, other: 0.0,
) -> frozenset[int]:
    """The indexes of the best value and of all that it is not clearly ahead of; empty if that is
    everyone. `sign` is 1 where more is better, -1 where less is, and 0 where nobody is best.

    A value is clearly behind if it is so by more than `small` (None: by more than 2% of the larger)
    and by more than the `doubt` about it.
    """
    known = {index: value for index, value in enumerate(values) if value is not None}
    if not sign or len(known) < 2:
        return frozenset()
    best = max(known, key=lambda index: known[index] * sign)

    def is_behind(index: int) -> bool:
        distance = abs(known[best] - known[index])
        needed = SMALL * max(abs(known[best]), abs(known[index])) if small is None else small
        return distance > max(needed, doubt(best, index))

    found = frozenset(index for index in known if not is_behind(index))
    return frozenset() if len(found) == len(known) else found


def only(found: frozenset[int]) -> int | None:
    """The winner: the leader who is alone."""
    return next(iter(found)) if len(found) == 1 else None
