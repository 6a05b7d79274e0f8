"""Did you mean: the known word nearest to a misspelled one."""

from collections.abc import Iterable

_LONGEST = 80  # a longer "word" is no typing mistake, and the distance takes quadratic time


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word at most a third of its length away, or None; ties go to the first in order."""
    if len(word) > _LONGEST:
        return None
    best: str | None = None
    best_distance = 0
    for candidate in known:
        longer = max(len(word), len(candidate))
        allowed = min(max(1, longer // 3), longer - 1)
        if abs(len(word) - len(candidate)) > allowed:
            continue
        distance = edit_distance(word.lower(), candidate.lower())
        if distance <= allowed and (best is None or distance < best_distance):
            best, best_distance = candidate, distance
    return best


def edit_distance(left: str, right: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment)."""
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        current = [i]
        for j, b in enumerate(right, 1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]
