"""Two routers on one cluster, each with reservations of its own: together they load workers evenly.

A router knows at once what it has sent itself, and nothing of what the other one sends in the same burst.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from statistics import fmean
from typing import Any

import pytest

from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_bytes
from mserve.runtime.blocks import block_keys
from mserve.runtime.cluster.membership import BlockEvents
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.messages import pack_tokens
from mserve.runtime.traffic.workloads import Spread

NAMES = tuple(f"workers-{number}" for number in range(8))
BLOCK_TOKENS = 16
BURST = 96  # requests
OUTPUT_TOKENS = 4
EVEN = 1.2  # the busiest worker over the mean

Prompts = Sequence[Sequence[int]]


def strategy(name: str) -> Any:
    path = files("mserve.strategies").joinpath(f"{name}.mserve")
    return compile_strategy(check_bytes(path.read_bytes(), path.name))


def prompts(rng: random.Random, hot: Sequence[int] = ()) -> Prompts:
    lengths = Spread(600, 250)
    return [[*hot, *rng.choices(range(1000), k=lengths.draw(rng))] for _ in range(BURST)]


async def burst(kit: Any, cluster: Any, routers: Sequence[Any], sent: Prompts) -> None:
    """All at once, in turn through each router, to their ends. No request ends before all are sent:
    nothing corrects a router meanwhile."""
    cluster.token_delay_s = 0.05
    async with asyncio.TaskGroup() as group:
        for number, prompt in enumerate(sent):
            executor = routers[number % len(routers)].executor
            group.create_task(executor.execute(kit.request(prompt, OUTPUT_TOKENS), kit.Collected()))


def loads(kit: Any, cluster: Any, num_cached: int = 0) -> Mapping[str, float]:
    """Seconds of work that each worker was sent; the first has `num_cached` tokens of every prompt."""
    decode_s = kit.COST.decode_time(OUTPUT_TOKENS)
    return {
        name: sum(
            kit.COST.prefill_time(len(call.tokens) // 4 - num_cached * (name == NAMES[0]))
            + decode_s
            for call in worker.calls
        )
        for name, worker in cluster.workers.items()
    }


def unevenness(values: Mapping[str, float]) -> float:
    return max(values.values()) / fmean(values.values())


def run(
    kit: Any, name: str, num_routers: int, *, num_bursts: int = 1, hot: Sequence[int] = ()
) -> Any:
    """A cluster that has been sent bursts. All prompts begin with `hot`, which the first worker has."""

    async def main() -> Any:
        cluster, index, rng = kit.cluster(*NAMES), MemoryPrefixIndex(), random.Random(3)
        keys = block_keys(pack_tokens(list(hot)), BLOCK_TOKENS) if hot else ()
        await index.publish(NAMES[0], f"{NAMES[0]}.1", BlockEvents(1, stored=tuple(keys)))
        routers = [kit.router(cluster, strategy(name), index=index) for _ in range(num_routers)]
        for router in routers:
            await router.fleet.refresh()
        for _ in range(num_bursts):
            await burst(kit, cluster, routers, prompts(rng, hot))
        return cluster

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["least_loaded", "preble_live"])
def test_bursts_through_two_routers_load_workers_evenly(kit: Any, name: str) -> None:
    cluster = run(kit, name, 2, num_bursts=2)
    assert unevenness(loads(kit, cluster)) <= EVEN


@pytest.mark.parametrize("name", ["lmetric", "sglang_cache_aware", "round_robin"])
def test_strategies_that_count_requests_spread_requests(kit: Any, name: str) -> None:
    cluster = run(kit, name, 2)
    counts = Counter({name: len(worker.calls) for name, worker in cluster.workers.items()})
    assert unevenness(counts) <= EVEN


def test_a_hot_prefix_does_not_pile_up_on_its_worker(kit: Any) -> None:
    """Each router lets that worker be busier than the others, for its cache: two of them not twice so."""
    hot = random.Random(5).choices(range(1000), k=1600)
    alone, both = (
        loads(kit, run(kit, "preble_live", num_routers, hot=hot), len(hot))
        for num_routers in (1, 2)
    )
    assert both[NAMES[0]] == max(both.values())
    assert both[NAMES[0]] <= 1.1 * alone[NAMES[0]]
