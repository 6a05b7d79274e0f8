"""Workers are shared out whole and evenly; splits are all there are, or a bounded few; GPUs are counted."""

from itertools import pairwise, product

import pytest

from mserve.compiler.plan import PoolSpec
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.sizes import (
    MAX_SPLITS,
    ClusterSize,
    check_alike,
    cluster_size,
    shared_out,
    splits,
)

POOLS = [PoolSpec("prefill"), PoolSpec("decode"), PoolSpec("spare")]


def found(num_pools: int, num_workers: int) -> list[tuple[int, ...]]:
    return [tuple(each.values()) for each in splits(POOLS[:num_pools], num_workers)]


def test_the_remainder_goes_to_the_first_pools() -> None:
    assert shared_out(POOLS, 8) == {"prefill": 3, "decode": 3, "spare": 2}
    assert shared_out(POOLS[:1], 8) == {"prefill": 8}


def test_a_pool_without_a_worker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 workers .* over 3 pools \(prefill, decode, spare\)"):
        shared_out(POOLS, 2)


@pytest.mark.parametrize("num_pools", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [3, 4, 6])
def test_few_splits_are_all_there_are(num_pools: int, num_workers: int) -> None:
    counts = product(range(1, num_workers + 1), repeat=num_pools)
    assert found(num_pools, num_workers) == [each for each in counts if sum(each) == num_workers]


@pytest.mark.parametrize(("num_pools", "num_workers"), [(2, 18), (2, 1000), (3, 9), (3, 1000)])
def test_many_splits_are_a_bounded_few_from_end_to_end_with_the_even_one(
    num_pools: int, num_workers: int
) -> None:
    each = found(num_pools, num_workers)
    assert MAX_SPLITS - 2 <= len(each) == len(set(each)) <= MAX_SPLITS
    assert all(sum(counts) == num_workers and min(counts) >= 1 for counts in each)
    assert tuple(shared_out(POOLS[:num_pools], num_workers).values()) in each
    assert each[0][0] == 1
    assert each[-1][0] == num_workers - num_pools + 1
    if num_pools == 2:
        firsts = [counts[0] for counts in each]
        gaps = [after - before for before, after in pairwise(firsts)]
        assert max(gaps) <= num_workers // (MAX_SPLITS - 3) + 1, "evenly apart"


def test_gpus_are_what_the_option_says_or_else_the_pool() -> None:
    pools = [PoolSpec("prefill", workers=2, gpus=4), PoolSpec("decode", gpus=2)]
    assert cluster_size(pools, {"decode": 3}, None, measured=False).num_gpus == 2 * 4 + 3 * 2
    assert cluster_size(pools, {"decode": 3}, 1, measured=False).num_gpus == 5
    measured = cluster_size(pools, {}, None, measured=True)
    assert (str(measured), measured.total) == ("2+1 workers", "3 workers")


def test_a_size_in_words() -> None:
    assert str(ClusterSize({"prefill": 5, "decode": 3}, 8)) == "5+3 workers, 8 GPUs"
    assert str(ClusterSize({"workers": 1}, 1)) == "1 worker, 1 GPU"


def test_different_numbers_of_gpus_are_refused_with_who_has_how_many() -> None:
    small, large = ClusterSize({"a": 1, "b": 1}, 2), ClusterSize({"workers": 8}, 8)
    check_alike([("one", large), ("two", large)])
    with pytest.raises(
        ConfigError, match=r"one 8 workers, 8 GPUs, two 1\+1 workers, 2 GPUs"
    ) as met:
        check_alike([("one", large), ("two", small)])
    assert "--cluster 8" in str(met.value)
    assert "--unequal" in str(met.value)
    check_alike([("one", ClusterSize({"a": 8}, 8)), ("two", ClusterSize({"b": 2}, 8))])
