"""Requests for which no worker is left: they wait, and where that is in vain they say for whom."""

import asyncio
import logging
from typing import Any

import pytest

from mserve.compiler.plan import LimitsSpec
from mserve.runtime.errors import Unavailable
from mserve.runtime.router import fleet


def run(kit: Any, cluster: Any, disturb: Any) -> Any:
    """A split request of which `disturb(cluster)` is told the second token."""
    strategy = kit.Strategy(kit.split, kit.PREFILL_DECODE, limits=LimitsSpec(0.3, 2))
    sink = kit.Collected()
    sink.on_tokens = lambda: len(sink.payloads) == 2 and disturb(cluster)
    kit.execute(cluster, strategy, sink=sink)
    return sink


def test_without_a_route_it_waits_for_a_worker(kit: Any) -> None:
    async def main() -> Any:
        cluster = kit.cluster()
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first))
        sink = kit.Collected()
        async with router.running(), asyncio.TaskGroup() as group:
            group.create_task(router.executor.execute(kit.request(), sink))
            await asyncio.sleep(0)
            cluster.add("workers-0")
        return sink

    assert asyncio.run(main()).generated == kit.expected_tokens(kit.PROMPT, 8)


def test_without_a_route_in_time_it_is_unavailable(kit: Any) -> None:
    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.05, 2))
    with pytest.raises(Unavailable) as raised:
        kit.execute(kit.cluster(), strategy)
    assert raised.value.retry_after_s == 1.0


def test_the_message_names_the_pool_and_what_happened(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "decode-0")
    cluster.workers["decode-0"].script = kit.Script(lose_after=2)
    with pytest.raises(Unavailable) as raised:
        run(kit, cluster, lambda cluster: cluster.workers.pop("decode-0"))
    assert str(raised.value) == (
        "No route of the strategy was possible in time: there is no live worker in pool"
        " 'decode'. Before: worker decode-0 is lost"
    )
    assert raised.value.retry_after_s == 1.0


def test_every_pool_without_a_worker_is_named(kit: Any) -> None:
    with pytest.raises(Unavailable, match="no live worker in pool 'prefill' and 'decode'"):
        run(kit, kit.cluster(), lambda cluster: None)


def test_where_nobody_has_been_for_long_nobody_waits(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is refused at once, long before `limits.timeout`."""
    monkeypatch.setattr(fleet, "DESERTED_S", 0.05)

    async def main() -> None:
        strategy = kit.Strategy(kit.split, kit.PREFILL_DECODE, limits=LimitsSpec(600.0, 2))
        router = kit.router(kit.cluster("prefill-0"), strategy)
        async with router.running(), asyncio.timeout(5):
            with pytest.raises(Unavailable, match="no live worker in pool 'decode'") as raised:
                await router.executor.execute(kit.request(), kit.Collected())
        assert raised.value.retry_after_s == 5.0

    asyncio.run(main())


def test_the_stream_goes_on_with_the_worker_that_came_back(
    kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mserve")
    cluster = kit.cluster("prefill-0", "decode-0")
    cluster.workers["decode-0"].script = kit.Script(lose_after=2)

    def restart(cluster: Any) -> None:
        del cluster.workers["decode-0"]
        asyncio.get_running_loop().call_later(0.1, cluster.add, "decode-0")

    sink = run(kit, cluster, restart)
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert "pool 'decode' has no live worker any more" in caplog.text
    assert caplog.text.count("pool 'decode' has a live worker") == 2


def test_a_worker_that_takes_no_plans_is_asked_once(kit: Any) -> None:
    """Draining, or its engine is silent: requests after the first do not try it again."""

    async def main() -> Any:
        cluster = kit.cluster("workers-0", "workers-1")
        cluster.workers["workers-0"].script = kit.Script(refuse=Unavailable("draining"), times=9)
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first))
        async with router.running():
            for _ in range(3):
                await router.executor.execute(kit.request(), kit.Collected())
        return [len(worker.calls) for worker in cluster.workers.values()]

    assert asyncio.run(main()) == [1, 3]
