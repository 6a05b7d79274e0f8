"""Decisions: the first route that holds, what is missing, what a decision says of itself."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from mserve.compiler.givens import situation_from_text
from mserve.compiler.observe import Strategy
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.plan import (
    Decision,
    LimitsSpec,
    ParamSpec,
    PoolSpec,
    RemoteSend,
    StartGenerate,
)
from mserve.compiler.reference import ReferenceCluster
from mserve.compiler.scope import CompileError
from mserve.dsl.check import check_text

Compile = Callable[[str], CompiledStrategy]

BALANCED = """
strategy balanced "x"
param tail = 10% in 0%..90%
pool prefill
pool decode { workers = 2  batch = continuous(tokens = 8192, chunk = 512)  queue = fcfs }
limits { timeout = 5s  retries = 1 }
let p = argmin(load(w) for w in prefill)
let d = argmin(load(w) for w in decode)
let unused = next(decode)
route short when tokens(prompt) - cached(d) < 256 { generate on d }
route split { compute prompt[:100% - tail] on p  generate on d }
route alone { generate on d }
"""


def decide(
    strategy: CompiledStrategy, *givens: str, cluster: tuple[str, ...] = ()
) -> Decision | None:
    situation = situation_from_text(strategy, cluster, givens)
    return strategy.decide_in(situation.frame(strategy))


def test_what_the_runtime_reads(compile_text: Compile) -> None:
    strategy: Strategy = compile_text(BALANCED)
    assert strategy.name == "balanced"
    assert strategy.pools == (
        PoolSpec("prefill"),
        PoolSpec(
            "decode",
            2,
            1,
            {
                "batch": {"kind": "continuous", "tokens": 8192.0, "chunk": 512.0},
                "queue": {"kind": "fcfs"},
            },
        ),
    )
    assert strategy.limits == LimitsSpec(timeout_s=5.0, retries=1)
    assert strategy.observes == {"load", "cached"}


def test_a_decision_says_why(compile_text: Compile) -> None:
    decision = decide(compile_text(BALANCED), "tokens(prompt) = 4000", cluster=("decode = 2",))
    assert decision is not None
    assert decision.plan.route == "split"
    assert decision.plan.strategy == "balanced"
    assert decision.bindings == {"p": "prefill-0", "d": "decode-0"}
    assert decision.guards == (("short", False), ("split", True))


def test_a_route_that_misses_something_is_passed_over(compile_text: Compile) -> None:
    strategy = compile_text(BALANCED)
    decision = decide(strategy, "tokens(prompt) = 4000", cluster=("prefill = 0",))
    assert decision is not None
    assert decision.guards == (("short", False), ("split", None), ("alone", True))
    assert decision.bindings == {"p": None, "d": "decode-0"}
    assert decide(strategy, cluster=("decode = 0",)) is None


def test_params_change_while_serving(compile_text: Compile) -> None:
    strategy = compile_text(BALANCED)
    assert strategy.params == {"tail": ParamSpec("tail", 0.1, 0.0, 0.9)}
    strategy.set_param("tail", 0.5)
    decision = decide(strategy, "tokens(prompt) = 4000")
    assert decision is not None
    assert decision.plan.steps[1] == RemoteSend("s2", "prefill-0", 0, 2000, ("t1",))
    with pytest.raises(ValueError, match=r"'tail' goes from 0% to 90%, not 100%"):
        strategy.set_param("tail", 1.0)
    with pytest.raises(ValueError, match="no param 'head'; it has: tail"):
        strategy.set_param("head", 1.0)


@pytest.mark.parametrize(
    ("tail", "num_tokens", "end"),
    [("0%", 4000, 3999), ("10%", 4000, 3600), ("90%", 4000, 400), ("10%", 10_000_001, 9_000_000)],
)
def test_ratio_bounds_are_of_the_prompt(
    compile_text: Compile, tail: str, num_tokens: int, end: int
) -> None:
    decision = decide(compile_text(BALANCED), f"tokens(prompt) = {num_tokens}", f"tail = {tail}")
    assert decision is not None
    assert decision.plan.steps[1] == RemoteSend("s2", "prefill-0", 0, end, ("t1",))


@pytest.mark.parametrize(
    ("bound", "end"),
    [
        ("100", 100),
        ("-5", None),
        ("100000", 999),
        ("cached(d) + 50", 50),
        ("tokens(prompt) * 50%", 500),
        ("50%", 500),
        ("1 - 75%", 250),
        ("2 * (1 - 75%)", 500),
        ("cached(d) / tokens(prompt) + 20%", 200),
        ("min(30%, 40%)", 300),
        ("half", 500),
        ("max_tokens", 256),
        ("1 / 0", 999),
        ("max(cached(w) for w in pool_d) + 7", 7),
    ],
)
def test_bounds(compile_text: Compile, bound: str, end: int | None) -> None:
    """Counts are tokens, ratios of the prompt; below 0 is 0, above the end is the end."""
    strategy = compile_text(f"""
    strategy t ""
    pool pool_p
    pool pool_d
    let half = 50%
    let d = argmin(load(w) for w in pool_d)
    route r {{ compute prompt[:{bound}] on next(pool_p)  generate on d }}
    """)
    decision = decide(strategy)
    assert decision is not None
    ends = [step.end for step in decision.plan.steps if isinstance(step, RemoteSend)]
    assert ends == ([] if end is None else [end])


def test_ranges_never_go_back_and_rest_is_what_remains(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a
    pool b
    pool c
    pool d
    let k = 600
    let j = 200
    route r {
      compute prompt[:k] on next(a)
      compute prompt[k:j] on next(b)
      compute rest on next(c)
      generate on next(d)
    }
    """)
    decision = decide(strategy)
    assert decision is not None
    sends = [s for s in decision.plan.steps if isinstance(s, RemoteSend)]
    assert [(s.worker, s.begin, s.end) for s in sends] == [("a-0", 0, 600), ("c-0", 600, 999)]
    draft = strategy.routes[0].draft(situation_from_text(strategy).frame(strategy))
    assert [(s.begin, s.end) for s in draft.segments] == [
        (0, 600),
        (600, 600),
        (600, 1000),
        (1000, 1000),
    ]


def test_reuse_takes_what_is_cached(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a
    pool b
    pool c
    route r { reuse prompt[:50%] from next(a)  compute prompt[50%:80%] on next(b)  generate on next(c) }
    """)
    decision = decide(strategy, "cached(a[0]) = 300")
    assert decision is not None
    sends = [s for s in decision.plan.steps if isinstance(s, RemoteSend)]
    assert [(s.worker, s.begin, s.end) for s in sends] == [("a-0", 0, 300), ("b-0", 300, 800)]
    nothing = decide(strategy)
    assert nothing is not None
    assert not [s for s in nothing.plan.steps if s.worker == "a-0"]


def test_predicted_times_can_decide(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool workers
    let home  = argmax(cached(w) for w in workers)
    let quiet = argmin(load(w) for w in workers)
    route move when ttft(move) < ttft(stay) { reuse prompt from home  generate on quiet }
    route stay { generate on home }
    """)
    busy = ("cached(workers[0]) = 900", "load(workers[0]) = 5s")
    moved = decide(strategy, *busy, cluster=("workers = 2",))
    assert moved is not None
    assert moved.plan.route == "move"
    assert moved.predicted_ttft_s is not None
    assert 0 < moved.predicted_ttft_s < 1
    stayed = decide(strategy, busy[0], cluster=("workers = 2",))
    assert stayed is not None
    assert stayed.plan.route == "stay"
    assert {route for route, _ in stayed.forecasts} == {"move", "stay"}
    assert strategy.observes >= {"prefill_backlog", "transfer_time", "prefill_time", "cached"}


def test_forecasts_of_all_routes_change_no_decision(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a
    pool b
    let quiet = argmin(load(w) for w in a)
    route long when tokens(prompt) > 9000 { generate on next(b) }
    route short { generate on next(a) }
    route none { compute prompt on argmin(load(w) for w in b)  generate on quiet }
    """)
    given = ("tokens(prompt) = 100", "prefill_backlog(a[0]) = 2s")
    plain = decide(strategy, *given, cluster=("b = 0",))
    strategy.forecasts_all = True
    full = decide(strategy, *given, cluster=("b = 0",))
    assert plain is not None
    assert full is not None
    assert plain.forecasts == ()
    assert replace(full, forecasts=()) == plain
    forecasts = dict(full.forecasts)
    assert forecasts.keys() == {"long", "short", "none"}
    assert 2.0 < forecasts["short"] < 3.0
    assert forecasts["long"] == forecasts["none"] == math.inf


def test_an_impossible_route_takes_for_ever(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a
    pool b
    route first when ttft(second) > 1min { generate on next(a) }
    route second { generate on next(b) }
    """)
    decision = decide(strategy, cluster=("b = 0",))
    assert decision is not None
    assert decision.plan.route == "first"


def test_round_robin_says_which_counters_to_advance(compile_text: Compile) -> None:
    text = 'strategy t "" pool a let w = next(a) route r { generate on w }'
    strategy = compile_text(text)
    situation = situation_from_text(strategy, ["a = 3"])
    decision = strategy.decide_in(situation.frame(strategy))
    assert decision is not None
    assert decision.turns == (text.index("next"),)


@pytest.mark.parametrize(
    ("count", "max_tokens", "workers"),
    [
        (8, 100, ["a-0", "b-0"]),
        (100, 100, ["a-0"]),
        (0, 100, ["b-0"]),
    ],
)
def test_decode_moves_on_only_if_the_answer_can_reach_it(
    compile_text: Compile, count: int, max_tokens: int, workers: list[str]
) -> None:
    strategy = compile_text(f"""
    strategy t ""
    pool a
    pool b
    route r {{ generate {count} on next(a)  generate on next(b) }}
    """)
    decision = decide(strategy, f"max_tokens = {max_tokens}")
    assert decision is not None
    starts = [s for s in decision.plan.steps if isinstance(s, StartGenerate)]
    assert [start.worker for start in starts] == workers


def test_what_cannot_be_executed_yet_is_said(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    param x = 1 in 0..2
    pool a { gpus = 2  queue = hit_ratio(groups = 10)  host_cache = 64GiB  prefetch = peer(b) }
    pool b { batch = aligned(spread = 2)  prefix_cache = lru  prefetch = none }
    pool c { queue = deadline }
    adapt every 10s { x = 1 }
    slo { ttft = 500ms }
    route r { generate 5 on next(a)  generate on next(b) }
    """)
    text = "\n".join(strategy.unsupported)
    assert "`prefetch = peer` is not executed yet" in text
    assert len(strategy.unsupported) == 1
    assert strategy.pools[0].settings["prefetch"] == {"kind": "peer", "target": "b"}


def test_a_strategy_with_errors_is_not_compiled() -> None:
    with pytest.raises(CompileError, match="has errors"):
        compile_strategy(check_text("strategy"))


def test_routes_no_plan_exists_for_are_refused(compile_text: Compile) -> None:
    start = 'strategy t "" pool a route r { '
    with pytest.raises(CompileError, match="generates 3 times"):
        compile_text(start + "generate 1 on next(a) generate 2 on next(a) generate on next(a) }")
    with pytest.raises(CompileError, match="hands over to one"):
        compile_text(start + "generate on next(a) generate on next(a) }")
    with pytest.raises(CompileError, match="hands over to one"):
        compile_text(start + "generate 5 on next(a) }")


def test_compiling_needs_neither_pydantic_nor_the_runtime() -> None:
    code = (
        "import sys, mserve.compiler.pipeline, mserve.compiler.explain, mserve.compiler.testing\n"
        "found = {'pydantic', 'torch', 'msgspec', 'mserve.runtime'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


NEXT = """
strategy t ""
pool a
pool b
let c = next(b)
route first when ttft(first) < ttft(second) { generate on next(a) }
route second { compute prompt[:10%] on c  generate on next(b) }
"""


def test_turns_are_those_of_the_route_taken_each_once(compile_text: Compile) -> None:
    strategy = compile_text(NEXT)
    named, in_first, in_second = [match.start() for match in re.finditer("next", NEXT)]
    taken = decide(strategy, "prefill_backlog(b[0]) = 5s")
    assert taken is not None
    assert (taken.plan.route, sorted(taken.turns)) == ("first", [named, in_first])
    other = decide(strategy, "prefill_backlog(a[0]) = 5s")
    assert other is not None
    assert (other.plan.route, sorted(other.turns)) == ("second", [named, in_second])


def test_a_handoff_counts_from_the_beginning_of_the_answer(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a
    pool b
    route r { generate 8 on next(a)  generate on next(b) }
    """)

    def started(num_answered: int) -> list[tuple[str, int | None]]:
        cluster = situation_from_text(strategy).cluster
        decision = strategy.decide(Retried(cluster.pools, num_answered=num_answered))
        assert decision is not None
        steps = decision.plan.steps
        return [(s.worker, s.max_tokens) for s in steps if isinstance(s, StartGenerate)]

    assert started(0) == [("a-0", 8), ("b-0", None)]
    assert started(5) == [("a-0", 3), ("b-0", None)]
    assert started(8) == [("b-0", None)]


@dataclass(frozen=True)
class Retried(ReferenceCluster):
    num_answered: int = 0
