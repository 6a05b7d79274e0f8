"""E2 as the paper has it (arXiv 2407.00023, section 3.2), written out a second time in Python.

Both shipped versions are compared with it over random clusters, the second with its own idea of a calm
worker; the mistakes of the published code are examples of their own.
"""

import random
from dataclasses import dataclass, replace
from importlib.resources import files

import pytest

from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.plan import Commit, Decision
from mserve.compiler.reference import Fact, ReferenceCluster
from mserve.dsl.check import check_text

LOADS = {"preble": "recent", "preble_live": "load"}
IMBALANCE = 1.5


@dataclass(frozen=True)
class Worker:
    cached: int
    load_s: float
    evict_s: float
    wait_growth: float = 1.0
    backlog_s: float = 0.0


def strategy(name: str) -> CompiledStrategy:
    text = files("mserve.strategies").joinpath(f"{name}.mserve").read_text("utf-8")
    return compile_strategy(check_text(text))


def cluster(name: str, num_tokens: int, workers: list[Worker]) -> ReferenceCluster:
    """Evicting costs the same for all numbers of tokens here: what is asked is in `_cost`."""
    names = tuple(f"workers-{index}" for index in range(len(workers)))
    facts: dict[Fact, object] = {("tokens", ()): num_tokens}
    hit = max(worker.cached for worker in workers)
    for at, worker in zip(names, workers, strict=True):
        facts[("cached", (at,))] = worker.cached
        facts[(LOADS[name], (at,))] = worker.load_s
        facts[("wait_growth", (at,))] = worker.wait_growth
        facts[("prefill_backlog", (at,))] = worker.backlog_s
        for missed in {num_tokens - worker.cached, num_tokens - hit}:
            facts[("evict_time", (missed, at))] = worker.evict_s
    return ReferenceCluster({"workers": names}, facts)


def decide(name: str, num_tokens: int, workers: list[Worker]) -> Decision:
    decision = strategy(name).decide(cluster(name, num_tokens, workers))
    assert decision is not None
    return decision


def expected(name: str, view: ReferenceCluster, workers: list[Worker]) -> tuple[str, int]:
    """Route and worker of the paper's rule."""
    num_tokens, indices = view.num_tokens, range(len(workers))

    def prefill_s(i: int) -> float:
        return view.prefill_time(num_tokens - workers[i].cached, f"workers-{i}")

    loads = [worker.load_s for worker in workers]
    hit = max(worker.cached for worker in workers)
    holders = [i for i in indices if workers[i].cached == hit]
    best = min(holders, key=lambda i: loads[i] + workers[i].evict_s)
    if name == "preble":
        calm = loads[best] <= IMBALANCE * min(loads)
    else:
        soonest_s = min(workers[i].backlog_s + prefill_s(i) for i in indices)
        calm = workers[best].backlog_s <= IMBALANCE * soonest_s
    if num_tokens - hit < hit and calm:
        others = any(worker.cached < hit for worker in workers)
        return ("copy" if workers[best].wait_growth >= 2 and others else "exploit"), best

    def cost(i: int) -> float:
        return loads[i] + workers[i].evict_s + prefill_s(i)

    return "explore", min(indices, key=cost)


@pytest.mark.parametrize("name", LOADS)
def test_it_decides_as_the_paper_does(name: str) -> None:
    rng = random.Random(7)
    routes = set()
    compiled = strategy(name)
    for _ in range(300):
        num_tokens = rng.randrange(1, 9000)
        shared = rng.randrange(num_tokens)  # several workers may hold the longest prefix
        workers = [
            Worker(
                cached=rng.choice((0, shared, rng.randrange(num_tokens))),
                load_s=rng.uniform(1, 2) * rng.choice((1.0, 1.0, 5.0)),
                evict_s=rng.choice((0.0, rng.uniform(0, 1))),
                wait_growth=rng.choice((1.0, 2.0, 2.5)),
                backlog_s=rng.uniform(0, 0.5) * rng.choice((0.0, 1.0, 5.0)),
            )
            for _ in range(rng.randrange(1, 7))
        ]
        view = cluster(name, num_tokens, workers)
        decision = compiled.decide(view)
        assert decision is not None
        found = decision.plan.route, int(decision.plan.steps[0].worker.removeprefix("workers-"))
        if decision.plan.route == "copy":
            commits = [s.worker for s in decision.plan.steps if isinstance(s, Commit)]
            calmest = [w for w in workers if w.cached < max(each.cached for each in workers)]
            assert [workers[int(at.removeprefix("workers-"))] for at in commits] == [
                min(calmest, key=lambda worker: worker.load_s)
            ]
        assert found == expected(name, view, workers)
        routes.add(decision.plan.route)
    assert routes == {"copy", "exploit", "explore"}


CALM = Worker(cached=0, load_s=1.0, evict_s=0.0)


@pytest.mark.parametrize("name", LOADS)
def test_the_cheapest_is_a_worker_not_its_position_among_those_left(name: str) -> None:
    workers = [CALM, CALM, replace(CALM, cached=3000)]
    decision = decide(name, 4000, workers)
    assert (decision.plan.route, decision.plan.steps[0].worker) == ("exploit", "workers-2")


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("num_tokens", [2, 17, 4000])
def test_a_prompt_seen_before_is_exploited(name: str, num_tokens: int) -> None:
    """All but its last token is cached then, since that one's logits are always computed."""
    workers = [replace(CALM, load_s=0.9), replace(CALM, cached=num_tokens - 1)]
    wanted = "exploit" if num_tokens > 2 else "explore"  # of two tokens half is no majority
    assert decide(name, num_tokens, workers).plan.route == wanted


@pytest.mark.parametrize("name", LOADS)
def test_evictions_count_when_exploiting(name: str) -> None:
    workers = [replace(CALM, cached=3000, evict_s=0.5), replace(CALM, cached=3000, load_s=1.2)]
    decision = decide(name, 4000, workers)
    assert decision.plan.steps[0].worker == "workers-1"


def test_a_worker_far_busier_than_the_calmest_is_relieved() -> None:
    busy = replace(CALM, cached=3000, load_s=2.0)
    assert decide("preble", 4000, [busy, CALM]).plan.route == "explore"
    assert decide("preble", 4000, [busy, replace(CALM, load_s=1.4)]).plan.route == "exploit"


def test_a_worker_is_busy_if_waiting_for_it_takes_longer_than_computing_elsewhere() -> None:
    """Long answers make nobody busy, and an idle worker does not make all others so."""
    busy = replace(CALM, cached=3000, load_s=9.0)
    elsewhere_s = cluster("preble_live", 4000, [CALM]).prefill_time(4000, "workers-0")
    for share, route in ((0.0, "exploit"), (1.4, "exploit"), (1.6, "explore")):
        workers = [replace(busy, backlog_s=share * elsewhere_s), CALM]
        assert decide("preble_live", 4000, workers).plan.route == route


@pytest.mark.parametrize("name", LOADS)
def test_what_all_have_is_not_copied(name: str) -> None:
    hot = replace(CALM, cached=3000, wait_growth=3.0)
    assert decide(name, 4000, [hot, hot]).plan.route == "exploit"
    assert decide(name, 4000, [hot, CALM]).plan.route == "copy"
