"""Did you mean: the known name that a mistyped one stands for, or all that there are.

Knows names only. Strict on purpose: of GPUs, models and workers, a name that is like another one is
more often another thing than a slip of the finger.
"""

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher

_NUM_SLIPS = 2  # letters, and at most half of those that a name has


def near_miss(word: str, known: Iterable[str]) -> str | None:
    """The known name that differs in one or two letters, the nearest one; in any case of letters.
    Numbers must be the same: `decode-7` is no misspelled `decode-3`, and `b200` no `h100`."""
    distances = ((_num_slips(word.lower(), name.lower()), name) for name in known)
    near = [
        (slips, name)
        for slips, name in distances
        if slips <= min(_NUM_SLIPS, _num_letters(name) // 2) and _numbers(name) == _numbers(word)
    ]
    return min(near, key=lambda each: each[0])[1] if near else None


def meant(word: str, known: Collection[str], otherwise: str = "they are") -> str:
    """The end of a sentence: a question where one was nearly typed, else all that are known."""
    near = near_miss(word, known)
    return f"did you mean {near!r}?" if near else f"{otherwise} {', '.join(known)}."


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def _num_letters(name: str) -> int:
    return sum(not each.isdecimal() for each in name)


def _num_slips(left: str, right: str) -> int:
    """Letters to change, add or leave out; at least as many as needed."""
    codes = SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return sum(max(b - a, d - c) for kind, a, b, c, d in codes if kind != "equal")
