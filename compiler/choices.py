"""Choices among workers and aggregates over them, on closures. Pure: chance comes from the seed.

A fold looks at its *elements*: the workers its filter leaves and one value for each. Knows no
syntax: evaluate.py reads the tree and puts these together.
"""

import heapq
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mserve.compiler.frame import Evaluator, Frame, Missing, Value
from mserve.compiler.plan import Candidate, Choice, WorkerName

Column = Callable[[Frame, Sequence[WorkerName]], list[Value]]
Elements = Callable[[Frame], tuple[Sequence[WorkerName], list[Value]]]
Aggregate = Callable[[list[Value]], Value]

MAX_CHOICES = 32  # in the record of a decision: one in a comprehension is made for each worker
SHOWN_CANDIDATES = 8  # of each
_MASK = (1 << 64) - 1


# --- elements ----------------------------------------------------------------------------------


def elementwise(evaluate: Evaluator, slot: int) -> Column:
    """One value per worker, by evaluating with the comprehension's variable set to each in turn."""

    def column(frame: Frame, workers: Sequence[WorkerName]) -> list[Value]:
        slots, values = frame.slots, []
        for worker in workers:
            slots[slot] = worker
            values.append(evaluate(frame))
        return values

    return column


def filtered(pool: Evaluator, where: Column | None) -> Evaluator:
    """The workers of a pool for which a condition holds, in pool order."""
    if where is None:
        return pool

    def evaluate(frame: Frame) -> Value:
        workers = pool(frame)
        holds = where(frame, workers)
        return tuple([worker for worker, keep in zip(workers, holds, strict=True) if keep])

    return evaluate


def elements_of(pool: Evaluator, column: Column) -> Elements:
    def elements(frame: Frame) -> tuple[Sequence[WorkerName], list[Value]]:
        workers = pool(frame)
        return workers, column(frame, workers) if workers else []

    return elements


# --- aggregates --------------------------------------------------------------------------------


def _sum(values: list[Value]) -> Value:
    value = sum(values)
    return value if value == value else 0.0


def _mean(values: list[Value]) -> Value:
    return _sum(values) / len(values)


def _count(values: list[Value]) -> int:
    """How many conditions hold, or how many workers there are where the value is no condition."""
    return sum(1 for value in values if value is not False)


def _extreme(best: Aggregate) -> Aggregate:
    def aggregate(values: list[Value]) -> Value:
        if not values:
            raise Missing
        return best(values)

    return aggregate


AGGREGATES: Mapping[str, Aggregate] = {
    "min": _extreme(min),
    "max": _extreme(max),
    "mean": _extreme(_mean),
    "sum": _sum,
    "count": _count,
    "any": any,
    "all": all,
}


def aggregate(op: str, elements: Elements) -> Evaluator:
    combine = AGGREGATES[op]
    return lambda frame: combine(elements(frame)[1])


# --- choices -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What an `argmin` or `argmax` adds up for each worker, and how it is written."""

    expression: str
    names: tuple[str, ...]
    columns: tuple[Column, ...]

    def values(
        self, frame: Frame, workers: Sequence[WorkerName]
    ) -> tuple[list[Value], list[list[Value]]]:
        """The sums, and the summands they are made of."""
        first, *others = columns = [column(frame, workers) for column in self.columns]
        for other in others:
            first = [v if (v := a + b) == v else 0.0 for a, b in zip(first, other, strict=True)]
        return first, columns


def best_worker(pool: Evaluator, terms: Terms, *, largest: bool) -> Evaluator:
    """The worker with the best value; ties go to fewest requests, least recently picked, pool
    order. What was compared is noted in the frame."""
    best = max if largest else min

    def choose(frame: Frame) -> Value:
        workers = _some(pool(frame))
        values, columns = terms.values(frame, workers)
        value = best(values)
        if values.count(value) == 1:
            chosen = values.index(value)
        else:
            ties = [index for index, other in enumerate(values) if other == value]
            chosen = min(ties, key=lambda index: frame.view.tie_break(workers[index]))
        if len(frame.choices) < MAX_CHOICES:
            candidates = [
                Candidate(workers[i], values[i], tuple([column[i] for column in columns]))
                for i in _best_first(values, chosen, largest=largest)
            ]
            frame.choices.append(
                Choice("", terms.expression, terms.names, tuple(candidates), len(workers))
            )
        return workers[chosen]

    return choose


def _best_first(values: list[Value], chosen: int, *, largest: bool) -> list[int]:
    """Indices of the best few, the chosen one first."""
    pick = heapq.nlargest if largest else heapq.nsmallest
    few = pick(SHOWN_CANDIDATES, range(len(values)), key=values.__getitem__)
    return [chosen, *[index for index in few if index != chosen]][:SHOWN_CANDIDATES]


def two_choices(place: int, pool: Evaluator, column: Column) -> Evaluator:
    """The better of two different workers drawn at random (Mitzenmacher 2001)."""

    def choose(frame: Frame) -> Value:
        workers = _some(pool(frame))
        if len(workers) == 1:
            return workers[0]
        first = draw(frame.view.seed, place, len(workers))
        second = draw(frame.view.seed, ~place, len(workers) - 1)
        pair = [workers[i] for i in sorted((first, second + (second >= first)))]
        values = column(frame, pair)
        if values[0] == values[1]:
            return min(pair, key=frame.view.tie_break)
        return pair[values.index(min(values))]

    return choose


def next_worker(place: int, pool: Evaluator) -> Evaluator:
    """Round robin: the counter of this place is the runtime's and advances at dispatch."""

    def choose(frame: Frame) -> Value:
        workers = _some(pool(frame))
        frame.turns.append(place)
        return workers[frame.view.turn(place) % len(workers)]

    return choose


def random_worker(place: int, pool: Evaluator) -> Evaluator:
    def choose(frame: Frame) -> Value:
        workers = _some(pool(frame))
        return workers[draw(frame.view.seed, place, len(workers))]

    return choose


def sticky_worker(key: Callable[[Frame], int | None], pool: Evaluator) -> Evaluator:
    """Rendezvous hashing (Thaler and Ravishankar 1998): a worker that comes or goes moves only its
    own keys. An empty key (None) falls to the worker with the fewest requests."""

    def choose(frame: Frame) -> Value:
        workers = _some(pool(frame))
        value = key(frame)
        if value is None:
            return min(workers, key=frame.view.tie_break)
        return max(workers, key=lambda worker: mix(value ^ zlib.crc32(worker.encode())))

    return choose


def text_key(text: str) -> int | None:
    data = text.encode()
    return zlib.crc32(data) << 32 | zlib.adler32(data) if data else None


def _some(workers: Sequence[WorkerName]) -> Sequence[WorkerName]:
    if not workers:
        raise Missing
    return workers


def draw(seed: int, place: int, count: int) -> int:
    """A number in [0, count), fixed by the request's seed and the place in the text."""
    return mix(mix(seed & _MASK) ^ (place & _MASK)) % count


def mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): 64 well-mixed bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
