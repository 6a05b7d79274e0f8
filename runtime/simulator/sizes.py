"""How many workers each pool of a strategy has, and on how many GPUs.

Shares a number of workers out over pools, and says who has how many where strategies are compared.
Knows no GPU and no engine: pools.py makes the workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb

from mserve.compiler.plan import PoolSpec
from mserve.runtime.errors import ConfigError

MAX_SPLITS = 16  # of a number of workers over the pools of a strategy, that are tried


@dataclass(frozen=True, slots=True)
class ClusterSize:
    """Workers by their pools, in the strategy's order. `num_gpus` is None where workers are as they
    were measured: nobody knows what they run on."""

    workers: Mapping[str, int]
    num_gpus: int | None

    @property
    def split(self) -> str:
        """`5+3`."""
        return "+".join(map(str, self.workers.values()))

    @property
    def num_workers(self) -> int:
        return sum(self.workers.values())

    @property
    def total(self) -> str:
        """`8 GPUs`; workers, where nobody knows of GPUs."""
        return _counted(self.num_workers, "worker") if self.num_gpus is None else self._gpus

    @property
    def _gpus(self) -> str:
        return "" if self.num_gpus is None else _counted(self.num_gpus, "GPU")

    def json(self) -> dict[str, object]:
        return {"workers": dict(self.workers), "gpus": self.num_gpus}

    def __str__(self) -> str:
        workers = f"{self.split} worker{'s' if self.num_workers != 1 else ''}"
        return f"{workers}, {self._gpus}" if self._gpus else workers


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def cluster_size(
    pools: Sequence[PoolSpec], workers: Mapping[str, int], gpus_each: int | None, *, measured: bool
) -> ClusterSize:
    """`gpus_each` worker goes before what pools say, as `workers` does."""
    counts = {pool.name: workers.get(pool.name, pool.workers) for pool in pools}
    if measured:
        return ClusterSize(counts, None)
    return ClusterSize(counts, sum(counts[pool.name] * (gpus_each or pool.gpus) for pool in pools))


def shared_out(pools: Sequence[PoolSpec], num_workers: int) -> dict[str, int]:
    """Evenly, the remainder to the first pools. Raises ConfigError where there are fewer workers."""
    least, rest = divmod(num_workers, len(pools))
    if not least:
        names = ", ".join(pool.name for pool in pools)
        raise ConfigError(
            f"{_counted(num_workers, 'worker')} cannot be shared out over {len(pools)} pools"
            f" ({names}): each takes at least one."
        )
    return {pool.name: least + (index < rest) for index, pool in enumerate(pools)}


def splits(
    pools: Sequence[PoolSpec], num_workers: int, at_most: int = MAX_SPLITS
) -> list[dict[str, int]]:
    """Ways to share them out with one worker in each pool at least, from most workers in the last pool
    to most in the first: all of them, or `at_most`, evenly apart, with the even one. Raises
    ConfigError as `shared_out`."""
    even = shared_out(pools, num_workers)
    num = comb(num_workers - 1, len(pools) - 1)
    ranks: Sequence[int] = range(num)
    if num > at_most:
        ranks = [round(index * (num - 1) / (at_most - 2)) for index in range(at_most - 1)]
    found = {_split(rank, num_workers, len(pools)) for rank in ranks} | {tuple(even.values())}
    return [dict(zip(even, counts, strict=True)) for counts in sorted(found)]


def _split(rank: int, num_workers: int, num_pools: int) -> tuple[int, ...]:
    """The one of that rank, counted from 0, in lexicographic order: by where it cuts a row of workers."""
    cuts, cut = [0], 1
    while len(cuts) < num_pools:
        num_beginning = comb(num_workers - 1 - cut, num_pools - len(cuts) - 1)
        if rank < num_beginning:
            cuts.append(cut)
        else:
            rank -= num_beginning
        cut += 1
    return tuple(after - before for before, after in pairwise([*cuts, num_workers]))


def check_alike(sizes: Sequence[tuple[str, ClusterSize]]) -> None:
    """Raises ConfigError unless all, by their names, have the same number of GPUs, or of workers where
    nobody knows of GPUs."""
    totals = {size.total for _, size in sizes}
    if len(totals) < 2:
        return
    each = ", ".join(f"{name} {size}" for name, size in sizes)
    num_workers = max(size.num_workers for _, size in sizes)
    raise ConfigError(
        f"These would not have the same number of GPUs: {each}. Write --cluster {num_workers} for so"
        " many workers each (and --gpus-per-worker N where pools say different ones), or --unequal to"
        " compare them as they are."
    )
