"""In which order sequences are served: who is admitted first, whose chunks come first, and who is
preempted last.

A policy ranks a sequence once, by what is known when it arrives; nobody's rank changes while it
waits. So everyone is overtaken by those only who arrive within a bound that the policy states, and
the best ranked of those who are here always goes on: nobody starves.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Protocol

from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.sequence import Sequence

Rank = Callable[[Sequence], tuple[float, int]]  # smaller is served first; no two are equal


class Queue(Protocol):
    """Sequences that wait. A policy that looks at what is cached now may choose otherwise than by
    rank; then it states its own bound."""

    def __contains__(self, sequence: Sequence) -> bool: ...

    def add(self, sequence: Sequence) -> None: ...

    def remove(self, sequence: Sequence) -> None:
        """If it is there."""
        ...

    def first(self) -> Sequence | None:
        """Who is next; nobody overtakes it while it finds no room."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence]: ...


class RankedQueue:
    """A `Queue` in the order of a rank."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._sequences: list[Sequence] = []

    def __contains__(self, sequence: Sequence) -> bool:
        index = bisect_left(self._sequences, self._rank(sequence), key=self._rank)
        return index < len(self._sequences) and self._sequences[index] is sequence

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=self._rank)

    def remove(self, sequence: Sequence) -> None:
        index = bisect_left(self._sequences, self._rank(sequence), key=self._rank)
        if index < len(self._sequences) and self._sequences[index] is sequence:
            del self._sequences[index]

    def first(self) -> Sequence | None:
        return self._sequences[0] if self._sequences else None

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)


def rank_of(config: EngineConfig) -> Rank:
    """The rank of `config.queue`:

    fcfs      by arrival: nobody is overtaken
    deadline  earliest deadline first; a sequence that must be there d seconds after its arrival is
              overtaken by those only who arrive less than d seconds after it
    priority  highest first, and `priority_step_s` seconds of waiting outweigh one unit of it: one
              of priority p is overtaken by one of q only if it arrives less than
              (q - p) * priority_step_s after it
    hit_ratio by arrival, once admitted; who waits is in hit_ratio.py's order
    """

    def by_deadline(sequence: Sequence) -> tuple[float, int]:
        wanted = sequence.deadline_s
        delay_s = config.default_deadline_s if wanted is None else wanted
        return sequence.arrival_s + delay_s, sequence.order

    def by_priority(sequence: Sequence) -> tuple[float, int]:
        head_start_s = sequence.priority * config.priority_step_s
        return sequence.arrival_s - head_start_s, sequence.order

    ranks = {"deadline": by_deadline, "priority": by_priority}
    return ranks.get(config.queue, _by_arrival)


def _by_arrival(sequence: Sequence) -> tuple[float, int]:
    return 0.0, sequence.order
