"""What becomes of a request whose worker fails or refuses: whether it is tried again, where, how often."""

import asyncio
from typing import Any

import pytest

from mserve.compiler.plan import LimitsSpec
from mserve.runtime.errors import (
    BadRequest,
    EngineFailure,
    Gone,
    NoRoom,
    RequestError,
    Unreachable,
    WorkerLost,
)


def test_the_next_request_stays_away_from_a_lost_worker(kit: Any) -> None:
    async def main() -> Any:
        cluster = kit.cluster("workers-0", "workers-1")
        cluster.workers["workers-0"].script = kit.Script(lose_after=1)
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first))
        async with router.running():
            for _ in range(2):
                await router.executor.execute(kit.request(), kit.Collected())
        return [len(worker.calls) for worker in cluster.workers.values()]

    assert asyncio.run(main()) == [1, 2]


def test_a_worker_that_speaks_of_its_peers_loss_is_not_left_out(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "decode-0", "decode-1")
    cluster.workers["prefill-0"].script = kit.Script(fail=WorkerLost("the receiver is gone"))
    sink, _ = kit.execute(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert len(cluster.workers["prefill-0"].calls) == 2
    assert len(cluster.workers["decode-1"].calls) == 1


def test_no_room_goes_to_another_worker(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = kit.Script(refuse=NoRoom("full"))
    sink, _ = kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert len(cluster.workers["workers-1"].calls) == 1


def test_the_only_worker_without_room_is_asked_again(kit: Any) -> None:
    cluster = kit.cluster("workers-0")
    cluster.workers["workers-0"].script = kit.Script(refuse=NoRoom("full"), times=5)
    sink, _ = kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert len(cluster.workers["workers-0"].calls) == 6


def test_no_room_within_the_timeout_is_what_the_client_hears(kit: Any) -> None:
    cluster = kit.cluster("workers-0")
    cluster.workers["workers-0"].script = kit.Script(refuse=NoRoom("full"), times=1000)
    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.1, 2))
    with pytest.raises(NoRoom, match="full"):
        kit.execute(cluster, strategy)


def test_a_stale_incarnation_is_planned_anew(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = kit.Script(refuse=Gone("another incarnation"))
    sink, _ = kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)


def test_retries_are_limited(kit: Any) -> None:
    cluster = kit.cluster(*(f"workers-{index}" for index in range(4)))
    for worker in cluster.workers.values():
        worker.script = kit.Script(lose_after=2)
    with pytest.raises(WorkerLost):
        kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert [len(worker.calls) for worker in cluster.workers.values()] == [1, 1, 1, 0]


def test_a_worker_that_takes_no_calls_uses_up_no_retry(kit: Any) -> None:
    cluster = kit.cluster(*(f"workers-{index}" for index in range(6)))
    *unreachable, last = cluster.workers.values()
    for worker in unreachable:  # more of them than there are retries
        worker.script = kit.Script(refuse=Unreachable("nobody listens"))
    sink, _ = kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert len(last.calls) == 1


@pytest.mark.parametrize("error", [NoRoom("full"), Unreachable("nobody listens")])
def test_an_answer_that_broke_off_waits_no_longer_than_the_timeout(kit: Any, error: Any) -> None:
    """What uses up no retry must not move the deadline on either."""
    cluster = kit.cluster("workers-0")
    worker = cluster.workers["workers-0"]
    worker.script = kit.Script(lose_after=2)

    def refuse_from_now_on() -> None:
        worker.script = kit.Script(refuse=error, times=1_000_000)

    async def main() -> None:
        limits = LimitsSpec(0.7, 2)  # a lost worker is heard from again after 0.5 s
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first, limits=limits))
        async with router.running(), asyncio.timeout(3):
            await router.executor.execute(
                kit.request(), kit.Collected(on_tokens=refuse_from_now_on)
            )

    with pytest.raises(RequestError, match=str(error)):
        asyncio.run(main())


@pytest.mark.parametrize("error", [EngineFailure("poison"), BadRequest("no such token")])
def test_an_error_that_would_come_again_is_not_retried(kit: Any, error: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = kit.Script(refuse=error)
    with pytest.raises(type(error), match=str(error)):
        kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert not cluster.workers["workers-1"].calls
