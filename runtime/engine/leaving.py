"""Sequences that have ended while a batch or a transfer still had their pages.

Owns who holds what, by the name of the transfer. Knows neither batches nor transfers: the engine
says when none is in flight any more, the transfers when they are over.
"""

from collections.abc import Iterator

from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.sequence import Sequence


class Leaving:
    """What these sequences have computed stays as cache; their pages go when nobody needs them."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._sequences: list[Sequence] = []
        self._holds: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        self._sequences.append(sequence)

    def hold(self, sequence: Sequence, name: str) -> None:
        """A transfer of this name reads or writes the sequence's pages."""
        assert name not in self._holds, f"transfer {name} holds pages twice"
        self._holds[name] = sequence
        sequence.num_holds += 1

    def let_go(self, name: str) -> None:
        self._holds.pop(name).num_holds -= 1

    def free(self) -> None:
        """No batch is in flight: who is not held gives back the pages."""
        for sequence in [s for s in self._sequences if not s.num_holds]:
            self._cache.publish(sequence, sequence.num_computed)
            self._cache.release(sequence)
            self._sequences.remove(sequence)
