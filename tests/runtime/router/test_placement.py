"""What a strategy observes, and what the router books for the plans it sends."""

import asyncio
from typing import Any

import msgspec
import pytest

from mserve.compiler.plan import PrepRecv, RemoteSend, StartGenerate
from mserve.runtime.blocks import block_keys
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import BlockEvents, Member, WorkerStats
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import pack_tokens
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.history import History, Window
from mserve.runtime.router.placement import Placement, Query, check_observes
from mserve.runtime.router.reservations import Reservations, Work

PROMPT = tuple(range(100))


class Bench:
    """A placement over a cluster, with whatever the strategy saw."""

    def __init__(self, kit: Any, *names: str, observes: frozenset[str] = frozenset()) -> None:
        self.kit = kit
        self.cluster = kit.cluster(*names)
        self.clock = LoopClock()
        self.fleet = Fleet(self.cluster, self.clock)
        self.index = MemoryPrefixIndex()
        self.reservations = Reservations(self.clock)
        self.history = History(self.clock)
        self.steps: Any = kit.generate_on_first
        self.strategy = kit.Strategy(self._decide, observes=observes, turns=(3,))
        self.placement = Placement(
            self.strategy, self.fleet, self.index, self.reservations, self.history
        )
        self.view: Any = None

    def _decide(self, view: Any) -> Any:
        self.view = view
        return self.steps(view)

    async def place(self, prompt: Any = PROMPT, **options: Any) -> Any:
        await self.fleet.refresh()
        request = self.kit.request(prompt, options.pop("max_tokens", 10))
        tokens = pack_tokens(list(prompt))
        return await self.placement.place(Query(request, tokens, 10, **options))

    async def store(self, worker: str, num_blocks: int) -> None:
        keys = block_keys(pack_tokens(list(PROMPT)), 16)[:num_blocks]
        await self.index.publish(worker, f"{worker}.1", BlockEvents(1, stored=tuple(keys)))


def run(main: Any) -> Any:
    return asyncio.run(main())


def test_cached_is_looked_up_only_if_the_strategy_asks(kit: Any) -> None:
    async def main() -> Any:
        seen = []
        for observes in (frozenset[str](), frozenset({"cached"})):
            bench = Bench(kit, "workers-0", observes=observes)
            await bench.store("workers-0", 3)
            await bench.place()
            seen.append(bench.view.cached("workers-0"))
        return seen

    assert run(main) == [0, 48]


def test_what_is_cached_is_counted_although_the_strategy_does_not_ask(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0", "workers-1")
        await bench.store("workers-0", 2)
        await bench.store("workers-1", 5)
        return (await bench.place()).cached

    found = run(main)
    assert (found.available, found.routed) == (80, 32)


def test_the_last_token_is_never_cached(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0", observes=frozenset({"cached"}))
        await bench.store("workers-0", 6)
        await bench.place(PROMPT[:96])
        return bench.view.cached("workers-0")

    assert run(main) == 95


def test_draining_lost_and_excluded_workers_are_in_no_pool(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0", "workers-1", "workers-2", "workers-3")
        workers = bench.cluster.workers
        workers["workers-1"].stats = WorkerStats(draining=True)
        await bench.fleet.refresh()
        bench.fleet.report_lost(workers["workers-2"].info)
        await bench.place(excluded={"workers-3"})
        return bench.view.workers("workers"), bench.view.workers("none")

    assert run(main) == (("workers-0",), ())


def test_a_lost_worker_comes_back_when_it_is_heard_from(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        await bench.fleet.refresh()
        bench.fleet.report_lost(bench.cluster.workers["workers-0"].info)
        await bench.fleet.refresh()  # its last heartbeat was 0.5 s ago
        before = bench.fleet.snapshot.pools
        bench.clock.now = lambda: LoopClock().now() + 1  # type: ignore[method-assign]
        await bench.fleet.refresh()
        return before, bench.fleet.snapshot.pools

    assert run(main) == ({}, {"workers": ("workers-0",)})


def test_the_newest_incarnation_counts(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        old = bench.cluster.workers["workers-0"]
        new = bench.kit.cluster("workers-0").workers["workers-0"]
        new.info = msgspec.structs.replace(new.info, incarnation="new")

        async def members() -> Any:
            return [Member(new.info, new.stats, 0.1), Member(old.info, old.stats, 2.0)]

        bench.cluster.members = members
        await bench.place()
        return bench.fleet.snapshot.members["workers-0"].info.incarnation

    assert run(main) == "new"


def test_a_worker_that_is_gone_is_forgotten_by_the_index(kit: Any) -> None:
    async def main() -> Any:
        index, cluster = MemoryPrefixIndex(), kit.cluster("workers-0", "workers-1")
        for name in cluster.workers:
            await index.publish(name, f"{name}.1", BlockEvents(1, stored=(5,)))
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first), index=index)
        async with router.running():
            cluster.workers.pop("workers-0")
            await router.fleet.refresh()
            return await index.lookup([5])

    assert run(main) == {"workers-1": 1}


def test_costs_are_those_that_the_worker_measures_now(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0", "workers-1")
        bench.cluster.workers["workers-0"].stats = WorkerStats(prefill_drift=2.0, decode_drift=3.0)
        await bench.place()
        view, names = bench.view, ("workers-0", "workers-1")
        return (
            [view.prefill_time(10, name) for name in names],
            [view.decode_time(10, name) for name in names],
        )

    (slow, usual), (slow_decode, usual_decode) = run(main)
    assert slow == 2 * usual > 0
    assert slow_decode == pytest.approx(3 * usual_decode)


def test_observations_of_load(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        bench.cluster.workers["workers-0"].stats = WorkerStats(
            running=1, waiting=1, kv_used_tokens=200, kv_cached_tokens=300, kv_total_tokens=1000
        )
        works = [Work("workers-0", 0.5, 1.0, 10, 100) for _ in range(3)]
        with (
            bench.reservations.reserve(works[:1]),
            bench.reservations.reserve(works[1:2]),
            bench.reservations.reserve(works[2:]),
        ):
            await bench.place()
            names = ["load", "prefill_backlog", "queued", "running", "kv_free", "kv_used"]
            return {name: bench.view.worker(name, "workers-0") for name in names}

    assert run(main) == {
        "load": 4.5,
        "prefill_backlog": 1.5,
        "queued": 2.0,  # one was sent after the heartbeat
        "running": 1.0,
        "kv_free": 700.0,
        "kv_used": 0.3,
    }


def test_predicted_times_are_the_workers_own(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0", "workers-1")
        await bench.place()
        view = bench.view
        return (
            view.prefill_time(100, "workers-0"),
            view.decode_time(10, "workers-0"),
            view.transfer_time(1000, "workers-0", "workers-1"),
            view.prefill_time(0, "workers-0"),
        )

    assert run(main) == pytest.approx((0.011, 0.1, 0.001, 0.0))


def test_making_room_costs_what_is_used_again(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        bench.cluster.workers["workers-0"].stats = WorkerStats(
            kv_used_tokens=100, kv_cached_tokens=800, kv_total_tokens=1000
        )
        bench.history.answered("workers-0", 100, 50, 10)
        await bench.place()
        return [bench.view.evict_time(n, "workers-0") for n in (100, 300, 5000)]

    half = 0.5
    expected = [0.0, half * (0.001 + 0.0001 * 200), half * (0.001 + 0.0001 * 800)]
    assert run(main) == pytest.approx(expected)


def test_turns_and_picks_advance_when_a_plan_is_sent(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        turns = []
        for _ in range(3):
            await bench.place()
            turns.append(bench.view.turn(3) - 1)
        bench.steps = lambda view: None
        assert await bench.place() is None
        return turns, bench.view.turn(3), bench.view.turn(4)

    assert run(main) == ([0, 1, 2], 3, 0)


def test_ties_go_to_the_idlest_then_to_the_least_recently_picked(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0", "workers-1")
        with bench.reservations.reserve([Work("workers-0")]):
            await bench.place()
            busy = bench.view.tie_break("workers-0")
            idle = bench.view.tie_break("workers-1")
        return busy, idle, bench.view.tie_break("workers-0")

    busy, idle, after = run(main)
    assert busy > after > idle
    assert (busy[0], idle, after[0]) == (1, (0, 0.0), 0)


def test_the_seed_depends_on_request_and_attempt_alone(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        seeds = []
        for attempt in (0, 0, 1):
            await bench.place(attempt=attempt)
            seeds.append(bench.view.seed)
        return seeds

    first, again, other = run(main)
    assert first == again != other


def test_the_estimate_follows_each_worker_through_the_plan(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "prefill-0", "decode-0", observes=frozenset({"cached"}))
        await bench.store("prefill-0", 2)
        bench.steps = lambda view: [
            PrepRecv("s1", "decode-0", 0, 80, "t1"),
            RemoteSend("s2", "prefill-0", 0, 80, ("t1",)),
            StartGenerate("s3", "decode-0", 80, ("t1",)),
        ]
        return (await bench.place()).works

    decode, prefill = run(main)
    assert (decode.worker, prefill.worker) == ("decode-0", "prefill-0")
    assert prefill.prefill_s == pytest.approx(0.001 + 0.0001 * 48)
    assert (prefill.decode_s, prefill.kv_tokens) == (0.0, 80)
    assert decode.prefill_s == pytest.approx(0.001 + 0.0001 * 20)
    assert (decode.decode_s, decode.decode_tokens, decode.kv_tokens) == (0.1, 10, 110)


def test_an_observation_that_no_router_makes_is_refused(kit: Any) -> None:
    observes = frozenset({"load", "header:x-a", "moon"})
    with pytest.raises(ConfigError, match="observes `moon`"):
        check_observes(kit.Strategy(kit.generate_on_first, observes=observes))


# --- windows ------------------------------------------------------------------------------------------


def test_a_window_forgets() -> None:
    window = Window(span_s=10, num_buckets=10)
    for second in range(20):
        window.add(second, 1.0)
    assert (window.total, window.count) == (10.0, 10)
    assert window.forget(40).total == 0.0
    assert window.mean(default=7.0) == 7.0


def test_growth_compares_the_halves_of_a_window() -> None:
    window = Window(span_s=10, num_buckets=10)
    for second in range(10):
        window.add(second, 1.0 if second < 5 else 3.0)
    assert window.growth(9) == pytest.approx(3.0)
    assert Window().growth(0) == 1.0


def test_recent_work_is_what_was_sent_within_the_window(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        await bench.place()
        sent = bench.view.worker("recent", "workers-0")
        share = bench.view.worker("decode_share", "workers-0")
        bench.clock.now = lambda: LoopClock().now() + 200  # type: ignore[method-assign]
        return sent, share, bench.history.recent_s("workers-0")

    sent, share, later = run(main)
    assert sent == pytest.approx(0.011 + 0.1)
    assert share == pytest.approx(0.1 / 0.111)
    assert later == 0.0


def test_expected_output_is_the_mean_of_recent_answers(kit: Any) -> None:
    async def main() -> Any:
        bench = Bench(kit, "workers-0")
        await bench.place()
        before = bench.view.request("expected_output")
        bench.history.answered("workers-0", 10, 0, 4)
        bench.history.answered("workers-0", 10, 0, 8)
        return before, bench.view.request("expected_output")

    assert run(main) == (10, 6.0)
