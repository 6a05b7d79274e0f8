"""Sequences that have ended while a batch or a transfer still had their pages.

Owns who holds what, by the name of the transfer. Knows neither batches nor transfers: the engine
says which steps are over, the transfers when they are.
"""

from collections.abc import Iterator

from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.sequence import Sequence


class Leaving:
    """What these sequences have computed stays as cache; their pages go when nobody needs them."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._sequences: dict[Sequence, int] = {}  # with the last step that may have its pages
        self._holds: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence, last_step: int) -> None:
        """Its pages stay until that step is over."""
        self._sequences[sequence] = last_step

    def hold(self, sequence: Sequence, name: str) -> None:
        """A transfer of this name reads or writes the sequence's pages."""
        assert name not in self._holds, f"transfer {name} holds pages twice"
        self._holds[name] = sequence
        sequence.num_holds += 1

    def let_go(self, name: str) -> None:
        self._holds.pop(name).num_holds -= 1

    def free(self, steps_over: int) -> None:
        """Steps up to this one are over: whom no later one has and nobody holds gives back the
        pages."""
        if not self._sequences:
            return
        leaving = self._sequences.items()
        for sequence in [s for s, last in leaving if last <= steps_over and not s.num_holds]:
            self._cache.publish(sequence, sequence.num_computed)
            self._cache.release(sequence)
            del self._sequences[sequence]
