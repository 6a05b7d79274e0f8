"""Generated traffic has the statistics that it is asked for."""

import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from operator import mul

import pytest

from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.workloads import PREBLE, Spread, long_and_short, poisson, sharing

NUM = 6000


def gaps(arrivals: Iterable[Arrival]) -> list[float]:
    times = [0.0, *(arrival.at_s for arrival in arrivals)]
    return [after - before for before, after in pairwise(times)]


def variation(values: list[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values)


def seen_before(arrivals: Iterable[Arrival]) -> float:
    """The fraction of prompt tokens whose blocks an earlier prompt began with."""
    known: set[int] = set()
    num_seen = num_tokens = 0
    for arrival in arrivals:
        fresh = (i for i, block in enumerate(arrival.blocks) if block not in known)
        num_seen += next(fresh, len(arrival.blocks)) * arrival.block_tokens
        num_tokens += arrival.num_prompt
        known.update(arrival.blocks)
    return num_seen / num_tokens


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0])
def test_gaps_have_the_rate_and_the_variation(cv: float) -> None:
    found = gaps(poisson(rate=5, num_prompt=1, num_output=1, num=NUM, variation=cv))
    assert statistics.mean(found) == pytest.approx(0.2, rel=0.06)
    assert variation(found) == pytest.approx(cv, rel=0.06)


def test_a_metronome() -> None:
    found = gaps(poisson(rate=4, num_prompt=1, num_output=1, num=10, variation=0))
    assert found == pytest.approx([0.25] * 10)


def test_poissons_requests_share_nothing() -> None:
    found = list(poisson(rate=5.6, num_prompt=3000, num_output=100, num=50, block_tokens=512))
    assert {(a.num_prompt, a.num_output, len(a.blocks)) for a in found} == {(3000, 100, 6)}
    assert len({block for a in found for block in a.blocks}) == 300


def test_long_and_short() -> None:
    found = list(long_and_short(rate=5, num=NUM, num_long=1000, num_short=10, num_output=7))
    counts = Counter((a.num_prompt, a.num_output) for a in found)
    assert set(counts) == {(1000, 7), (10, 7)}
    assert counts[1000, 7] == pytest.approx(0.05 * NUM, rel=0.15)
    assert seen_before(found) == 0


def test_a_spread_has_its_mean_and_deviation() -> None:
    rng = random.Random(1)
    drawn = [Spread(1000, 500).draw(rng) for _ in range(NUM)]
    assert statistics.mean(drawn) == pytest.approx(1000, rel=0.03)
    assert statistics.stdev(drawn) == pytest.approx(500, rel=0.08)
    assert Spread(7.4).draw(rng) == 7


def test_slices_of_a_spread_add_up() -> None:
    spread, edges = Spread(1000, 500), (0, 0.1, 0.5, 0.9, 0.999, 1)
    slices = [spread.between(low, high) for low, high in pairwise(edges)]
    assert slices == sorted(slices)
    widths = [high - low for low, high in pairwise(edges)]
    assert sum(map(mul, slices, widths)) == pytest.approx(1000, abs=1)
    rng = random.Random(1)
    drawn = sorted(spread.draw(rng) for _ in range(NUM))
    assert spread.between(0.5, 0.9) == pytest.approx(
        statistics.mean(drawn[NUM // 2 : NUM * 9 // 10]), rel=0.02
    )


@pytest.mark.parametrize("name", PREBLE)
def test_prebles_workloads_are_those_of_the_papers_table(name: str) -> None:
    workload = PREBLE[name]
    found = list(sharing(workload, rate=4, num=4000))
    prompts, outputs = [a.num_prompt for a in found], [a.num_output for a in found]
    assert statistics.mean(prompts) == pytest.approx(workload.prompt.mean, rel=0.06)
    assert statistics.stdev(prompts) == pytest.approx(workload.prompt.deviation, rel=0.2)
    assert statistics.mean(outputs) == pytest.approx(workload.output.mean, rel=0.05)
    assert statistics.stdev(outputs) == pytest.approx(workload.output.deviation, rel=0.15)
    assert seen_before(found) == pytest.approx(workload.shared, abs=0.02)


@pytest.mark.parametrize("name", PREBLE)
def test_key_portions_are_those_of_the_papers_table(name: str) -> None:
    """The key portion begins where all prompts part, and ends where those of a group do."""
    workload = PREBLE[name]
    found = list(sharing(workload, rate=4, num=1500))
    uses = Counter(block for a in found for block in a.blocks)
    block_tokens = found[0].block_tokens
    root = sum(count == len(found) for count in uses.values()) * block_tokens
    assert root == pytest.approx(workload.root_tokens, abs=block_tokens)
    groups: dict[int, list[Arrival]] = {}
    for arrival in found:
        groups.setdefault(arrival.blocks[root // block_tokens], []).append(arrival)
    in_groups = [arrival for group in groups.values() if len(group) > 1 for arrival in group]
    num_shared = sum(uses[block] > 1 for arrival in in_groups for block in arrival.blocks)
    num_key = num_shared * block_tokens - root * len(in_groups)
    num_prompt = sum(arrival.num_prompt for arrival in in_groups)
    assert num_key / num_prompt == pytest.approx(workload.key_portion, abs=0.03)
    if workload.group.deviation < workload.group.mean:  # others need more requests than this
        sizes = statistics.mean(len(group) for group in groups.values())
        assert sizes == pytest.approx(workload.group.mean, rel=0.1)


def test_groups_are_mixed() -> None:
    found = list(sharing(PREBLE["video-qa"], rate=4, num=2000))
    groups = [arrival.blocks[1] for arrival in found]
    assert sum(before == after for before, after in pairwise(groups)) < 0.02 * len(found)


def test_zipf_makes_some_groups_popular() -> None:
    workload = PREBLE["video-qa"]
    found = list(sharing(workload, rate=4, num=2000, zipf=1.2))
    sizes = [count for _, count in Counter(a.blocks[1] for a in found).most_common()]
    ranks = round(2000 / 8.6)
    weight = sum((rank + 1) ** -1.2 for rank in range(ranks))
    assert sizes[0] == pytest.approx(2000 / weight, rel=0.15)
    assert sizes[0] / sizes[3] == pytest.approx(4**1.2, rel=0.3)


def test_the_same_requests_can_be_sent_faster() -> None:
    slow = list(sharing(PREBLE["toolbench"], rate=1, num=100))
    fast = list(sharing(PREBLE["toolbench"], rate=10, num=100))
    assert [a.blocks for a in slow] == [a.blocks for a in fast]
    assert [a.at_s for a in slow] == pytest.approx([10 * a.at_s for a in fast])


def test_seeds_make_differences() -> None:
    def drawn(seed: int) -> list[Arrival]:
        return list(sharing(PREBLE["toolbench"], rate=1, num=50, seed=seed))

    assert drawn(3) == drawn(3)
    assert not {b for a in drawn(3) for b in a.blocks} & {b for a in drawn(4) for b in a.blocks}


def test_every_process_draws_the_same() -> None:
    program = (
        "from mserve.runtime.traffic.workloads import *; import hashlib;"
        "drawn = [*sharing(PREBLE['toolbench'], rate=1, num=30),"
        " *sharing(PREBLE['loogle'], rate=1, num=9, zipf=1.1), *long_and_short(rate=2, num=20)];"
        "print(hashlib.sha256(repr(drawn).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
