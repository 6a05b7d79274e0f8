"""A row for every row of the language guide's tables: it checks clean, compiles, decides, is shown.

Each row stands in a strategy of its own, so that what it needs is in sight. What stands in
expressions is test_language_expressions.py's.
"""

from collections.abc import Callable

import pytest

from mserve.compiler.explain import PlanRequest, plan_text
from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.plan import (
    Commit,
    Decision,
    LimitsSpec,
    Plan,
    RemoteSend,
    SloSpec,
    StartGenerate,
)
from mserve.compiler.testing import run_tests
from mserve.dsl import settings

Compile = Callable[[str], CompiledStrategy]


def decided(strategy: CompiledStrategy, *givens: str, cluster: str = "") -> Decision:
    situation = situation_from_text(strategy, cluster.split(), givens)
    decision = strategy.decide_in(situation.frame(strategy))
    assert decision is not None
    return decision


def moves(plan: Plan) -> list[tuple[str, int, int]]:
    return [(s.worker, s.begin, s.end) for s in plan.steps if isinstance(s, RemoteSend)]


# --- declarations --------------------------------------------------------------------------------

DECLARATIONS = """
# a comment; newlines are white space, and the order is free
strategy all "every declaration"
route near when waiting(d) < patience and tokens(prompt) < limit { generate on d }
route far { compute prompt[:share] on p  generate on d }
def waiting(w) = prefill_backlog(w) + decode_time(1, w)
let d = argmin(load(w) for w in decode)  let p = next(prefill)
param share = 50% in 10%..90%
param limit = 2000 in 1..10000
param patience = 100ms in 0s..5min
pool prefill
pool decode { workers = 3 }
adapt every 10s { share = share * 2  limit = 10 * sum(kv_free(w) for w in decode) }
slo { ttft = 500ms  tpot = 50ms }
limits { timeout = 5s  retries = 1 }
test "near" { given tokens(prompt) = 100  expect route near }
"""


def test_every_declaration(compile_clean: Compile) -> None:
    strategy = compile_clean(DECLARATIONS)
    assert (strategy.name, strategy.description) == ("all", "every declaration")
    assert [pool.workers for pool in strategy.pools] == [1, 3]
    assert strategy.slo == SloSpec(ttft_s=0.5, tpot_s=0.05)
    assert strategy.limits == LimitsSpec(timeout_s=5.0, retries=1)
    assert {name: (p.low, p.high) for name, p in strategy.params.items()} == {
        "share": (0.1, 0.9),
        "limit": (1, 10000),
        "patience": (0, 300),
    }
    assert decided(strategy, "tokens(prompt) = 1999").plan.route == "near"
    assert moves(decided(strategy, "tokens(prompt) = 2000").plan) == [("prefill-0", 0, 1000)]
    view = situation_from_text(strategy).cluster
    assert strategy.adapt(view) == {"share": 0.9, "limit": 10000}
    assert [result.passed for result in run_tests(strategy)] == [True]


def test_every_declaration_is_shown(compile_clean: Compile) -> None:
    shown = plan_text(compile_clean(DECLARATIONS), PlanRequest())
    for text in (
        "strategy all: every declaration",
        "share = 50%  (10% to 90%)",
        "pool   decode (3 workers)",
        "d = argmin(load(w) for w in decode)",
        "def    waiting(w) = prefill_backlog(w) + decode_time(1, w)",
        "adapt  share = share * 2  (every 10s)",
        "adapt  limit = 10 * sum(kv_free(w) for w in decode)  (every 10s)",
        "slo    ttft = 500ms, tpot = 50ms",
        "limits timeout = 5s, retries = 1",
        "route near  when waiting(d) < patience and tokens(prompt) < limit",
        "route far  otherwise",
    ):
        assert text in shown


def test_no_constant_is_a_nan(compile_clean: Compile) -> None:
    strategy = compile_clean("""
    strategy s ""
    param x = 1 / 0 - 1 / 0 in -1..1
    pool a
    route r when x == 0 { generate on next(a) }
    route other { generate on next(a) }
    """)
    assert strategy.params["x"].default == 0
    assert decided(strategy).plan.route == "r"


def test_goals_and_limits_may_be_left_out(compile_clean: Compile) -> None:
    strategy = compile_clean('strategy s "" pool a route r { generate on next(a) }')
    assert strategy.slo == SloSpec(None, None)
    assert strategy.limits == LimitsSpec()


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("compute prompt on x  generate on y", [("a-0", 0, 999)]),
        ("compute prompt[:300] on x  generate on y", [("a-0", 0, 300)]),
        ("compute prompt[0:30%] on x  generate on y", [("a-0", 0, 300)]),
        (
            "compute prompt[:300] on x  compute prompt[300:] on z  generate on y",
            [("a-0", 0, 300), ("c-0", 300, 999)],
        ),
        (
            "compute prompt[:30%] on x  compute rest on z  generate on y",
            [("a-0", 0, 300), ("c-0", 300, 999)],
        ),
        (
            "compute prompt[:k] on x  compute prompt[k:k + 10%] on z  generate on y",
            [("a-0", 0, 250), ("c-0", 250, 350)],
        ),
        (
            "compute prompt[:700] on y  compute rest on x  generate on y",
            [("b-0", 0, 700), ("a-0", 700, 999)],
        ),
        ("compute prompt on y  generate on y", []),
        ("reuse prompt from x  generate on y", [("a-0", 0, 600)]),
        ("reuse prompt[:40%] from x  generate on y", [("a-0", 0, 400)]),
        (
            "reuse prompt[:40%] from x  compute rest on z  generate on y",
            [("a-0", 0, 400), ("c-0", 400, 999)],
        ),
        ("compute prompt[:-5] on x  generate on y", []),
        ("compute prompt[:0 - 10%] on x  generate on y", []),
        ("compute prompt[:5000] on x  generate on y", [("a-0", 0, 999)]),
        ("generate 8 on x  generate on y", [("a-0", 0, 1007)]),
        ("generate on x  replicate prompt to y", [("a-0", 0, 1000)]),
        ("generate on x  replicate prompt[:50%] to y", [("a-0", 0, 500)]),
    ],
)
def test_steps_and_ranges(
    compile_clean: Compile, steps: str, expected: list[tuple[str, int, int]]
) -> None:
    text = f"""
    strategy s ""
    pool a  pool b  pool c
    param k = 25% in 0%..99%
    let x = next(a)
    let y = next(b)
    let z = next(c)
    route parts when max_tokens > 0 and k < 50% and load(z) < 1h and load(x) < 1h {{ {steps} }}
    route other {{ compute prompt[:10%] on x  compute rest on z  generate on y }}
    """
    strategy = compile_clean(text)
    decision = decided(strategy, "cached(a[0]) = 600")
    assert decision.plan.route == "parts"
    assert moves(decision.plan) == expected
    assert "route parts" in plan_text(strategy, PlanRequest())


def test_a_handoff_decodes_k_tokens_and_goes_on_elsewhere(compile_clean: Compile) -> None:
    strategy = compile_clean("""
    strategy s ""
    pool a  pool b
    route r { generate 8 on next(a)  generate on next(b) }
    """)
    first, second = [
        step for step in decided(strategy).plan.steps if isinstance(step, StartGenerate)
    ]
    assert (first.worker, first.max_tokens) == ("a-0", 8)
    assert (second.worker, second.begin, second.max_tokens) == ("b-0", 1007, None)
    short = decided(strategy, "max_tokens = 8").plan
    assert [step.worker for step in short.steps] == ["a-0"]


def test_a_copy_is_kept(compile_clean: Compile) -> None:
    strategy = compile_clean("""
    strategy s ""
    pool a  pool b
    route r { generate on next(a)  replicate prompt to next(b) }
    """)
    commits = [step for step in decided(strategy).plan.steps if isinstance(step, Commit)]
    assert [step.worker for step in commits] == ["b-0"]


@pytest.mark.parametrize(
    "worker",
    [
        "next(b)",
        "random(b)",
        "two_choices(load(w) for w in b)",
        "sticky(session, b)",
        "argmin(load(w) for w in b)",
        "x if load(x) < 1s else y",
        "least(b)",
    ],
)
def test_a_worker_is_any_expression_of_type_worker(compile_clean: Compile, worker: str) -> None:
    strategy = compile_clean(f"""
    strategy s ""
    pool a  pool b
    def least(some) = argmin(load(w) for w in some)
    let x = argmin(load(w) for w in b)
    let y = argmax(load(w) for w in b)
    route one when load(x) < load(y) {{ compute prompt on least(a)  generate on {worker} }}
    route two {{ compute prompt[:10%] on next(a)  generate on {worker} }}
    """)
    plan = decided(strategy).plan
    assert plan.route == "two"
    assert plan.steps[-1].worker == "b-0"


# --- pool settings -------------------------------------------------------------------------------

POOL_SETTINGS: tuple[tuple[str, dict[str, object]], ...] = (
    ("queue = fcfs", {"queue": {"kind": "fcfs"}}),
    ("queue = hit_ratio(groups = 10)", {"queue": {"kind": "hit_ratio", "groups": 10}}),
    ("queue = deadline", {"queue": {"kind": "deadline"}}),
    ("queue = priority", {"queue": {"kind": "priority"}}),
    (
        "batch = continuous(tokens = 8192, chunk = 512)",
        {"batch": {"kind": "continuous", "tokens": 8192, "chunk": 512}},
    ),
    (
        "batch = aligned(spread = 2, patience = 50ms, fill = 80%)",
        {"batch": {"kind": "aligned", "spread": 2, "patience": 0.05, "fill": 0.8}},
    ),
    ("host_cache = 64GiB", {"host_cache": 2**36}),
    ("prefetch = none", {"prefetch": {"kind": "none"}}),
    ("prefetch = local", {"prefetch": {"kind": "local"}}),
    ("prefetch = peer(b)", {"prefetch": {"kind": "peer", "target": "b"}}),
    ("prefix_cache = lru", {"prefix_cache": {"kind": "lru"}}),
    ("prefix_cache = none", {"prefix_cache": {"kind": "none"}}),
)


@pytest.mark.parametrize(("setting", "expected"), POOL_SETTINGS)
def test_pool_settings(compile_clean: Compile, setting: str, expected: dict[str, object]) -> None:
    strategy = compile_clean(f"""
    strategy s ""
    pool a {{ workers = 4  gpus = 2  {setting} }}
    pool b
    route r {{ compute prompt on next(b)  generate on next(a) }}
    """)
    pool, _ = strategy.pools
    assert (pool.workers, pool.gpus) == (4, 2)
    assert pool.settings == expected
    assert setting in plan_text(strategy, PlanRequest())


def test_no_setting_is_left_out() -> None:
    named = {name for _, expected in POOL_SETTINGS for name in expected}
    assert named | {"workers", "gpus"} == set(settings.POOL)
    words = {
        (name, value["kind"])
        for _, expected in POOL_SETTINGS
        for name, value in expected.items()
        if isinstance(value, dict)
    }
    choices = {n: c for n, c in settings.POOL.items() if isinstance(c, settings.Choice)}
    assert words == {(name, word) for name, choice in choices.items() for word in choice.words}


# --- tests in the language -----------------------------------------------------------------------


def test_every_line_of_a_test(compile_clean: Compile) -> None:
    strategy = compile_clean("""
    strategy s ""
    param tail = 10% in 0%..90%
    pool p
    pool d
    let there = argmin(load(w) for w in d)
    let urgent = priority > 1
    route split when urgent and header("x-kind") != "batch" {
      compute prompt[:100% - tail] on next(p)
      generate on there
    }
    route whole { generate on there }
    test "everything" {
      cluster d = 2, p = 1
      given tokens(prompt) = 4000, cached(d[1]) = 1000, load(d[0]) = 500ms * 2
      given urgent = true, tail = 20%, header("x-kind") = "chat"
      expect route split
      expect there = d[1]
      expect load(d[0]) = 1s
      expect ttft(split) < 1s
      expect tail * tokens(prompt) = 800
      expect sends [1000:80%] from p[0] to d[1]
    }
    test "a binding may be fixed to a worker" {
      cluster d = 2
      given there = d[1]
      expect route whole
      expect there = d[1]
    }
    """)
    assert [result.failures for result in run_tests(strategy)] == [(), ()]
