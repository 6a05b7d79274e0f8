"""A row for every row of the language guide's tables: it checks clean, compiles, decides, is shown.

Each row stands in a strategy of its own, so that what it needs is in sight.
"""

import math
from typing import Any

import pytest

from mserve.compiler.explain import PlanRequest, plan_text
from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
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
from mserve.dsl import builtins, settings
from mserve.dsl.check import check_text
from mserve.dsl.diagnostics import Severity


def clean(text: str) -> CompiledStrategy:
    checked = check_text(text)
    errors = [each for each in checked.diagnostics if each.severity is Severity.ERROR]
    assert [f"{each.rule}: {each.message}" for each in errors] == []
    return compile_strategy(checked)


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


def test_every_declaration() -> None:
    strategy = clean(DECLARATIONS)
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


def test_every_declaration_is_shown() -> None:
    shown = plan_text(clean(DECLARATIONS), PlanRequest())
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


def test_goals_and_limits_may_be_left_out() -> None:
    strategy = clean('strategy s "" pool a route r { generate on next(a) }')
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
def test_steps_and_ranges(steps: str, expected: list[tuple[str, int, int]]) -> None:
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
    strategy = clean(text)
    decision = decided(strategy, "cached(a[0]) = 600")
    assert decision.plan.route == "parts"
    assert moves(decision.plan) == expected
    assert "route parts" in plan_text(strategy, PlanRequest())


def test_a_handoff_decodes_k_tokens_and_goes_on_elsewhere() -> None:
    strategy = clean("""
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


def test_a_copy_is_kept() -> None:
    strategy = clean("""
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
def test_a_worker_is_any_expression_of_type_worker(worker: str) -> None:
    strategy = clean(f"""
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


# --- expressions ---------------------------------------------------------------------------------


def value(expression: str, *givens: str, declarations: str = "", cluster: str = "a=3 b=2") -> Any:
    """Of a checked expression, in a cluster of three a's, two b's and, of none, none."""
    strategy = clean(f"""
    strategy s ""
    param half = 50% in 0%..100%
    param keep = 7 in 1..10
    pool a
    pool b
    pool none
    {declarations}
    let w0 = argmin(cached(w) for w in a)
    let w1 = argmax(cached(w) for w in a)
    let x = {expression}
    route used when half < 2 and keep > 3 {{ compute prompt on w0  generate on next(b) }}
    route other when max_tokens > 5 {{ compute prompt on next(none)  generate on w1 }}
    route last {{ generate on next(b) }}
    test "x" {{ expect x = x }}
    """)
    frame = situation_from_text(strategy, [*cluster.split(), "none=0"], givens).frame(strategy)
    return strategy.names.let("x")(frame)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # units: literals in all of them, and what arithmetic makes of two
        ("50ms + 2s", 2.05),
        ("5min - 1h", -3300),
        ("100us * 10", 0.001),
        ("64GiB / 2", 2**35),
        ("1KiB + 1MiB + 3B + 1TiB", 2**10 + 2**20 + 3 + 2**40),
        ("10% + 5%", 0.15),
        ("1 - 10%", 0.9),
        ("tokens(prompt) * 10%", 100),
        ("tokens(prompt) / 2s", 500),
        ("2s / 500ms", 4),
        ("2s / tokens(prompt)", 0.002),
        ("tokens(prompt) / tokens(prompt) + 50%", 1.5),
        # operators
        ("-(3 - 5)", 2),
        ("2 * 3 - 4 / 2", 4),
        ("1 < 2 and not 2 < 1 or false", True),
        ("1 <= 1 and 1 >= 1 and 1 == 1 and 1 != 2 and 2 > 1", True),
        ("tenant == session", True),
        ("w0 == w0 and not w0 != w0", True),
        ("1s if load(w0) < 1s else 2s", 1),
        ("1s if load(w0) > 1s else 2s if load(w0) > 5s else 3s", 3),
        ("count(w for w in [w for w in a where load(w) < 1s])", 3),
        # totality
        ("1s / 0", math.inf),
        ("0 / 0", 0),
        ("1s / 0 - 1s / 0", 0),
        # arithmetic
        ("min(3, 1, 2)", 1),
        ("max(10%, keep * 1%)", 0.1),
        ("clamp(2s, 0s, 1s)", 1),
        ("abs(0 - 3)", 3),
        ("floor(2.5)", 2),
    ],
)
def test_expressions(expression: str, expected: object) -> None:
    assert value(expression) == pytest.approx(expected)


OBSERVATIONS: tuple[tuple[str, str, object], ...] = (
    ("tokens(prompt)", "tokens(prompt) = 70", 70),
    ("max_tokens", "max_tokens = 7", 7),
    ("expected_output", "expected_output = 12.5", 12.5),
    ("priority", "priority = 200%", 2),
    ("tenant", 'tenant = "me"', "me"),
    ("model", 'model = "tiny"', "tiny"),
    ("session", 'session = "abc"', "abc"),
    ('header("X-Kind")', 'header("x-kind") = "batch"', "batch"),
    ("cached(w1)", "cached(a[2]) = 300", 300),
    ("load(w1)", "load(a[0]) = 5s", 5),
    ("recent(w1)", "recent(a[0]) = 5s", 5),
    ("prefill_backlog(w1)", "prefill_backlog(a[0]) = 5s", 5),
    ("queued(w1)", "queued(a[1]) = 5", 0),
    ("running(w1)", "running(a[0]) = 0", 0),
    ("kv_free(w1)", "kv_free(a[0]) = 5", 5),
    ("kv_used(w1)", "kv_used(a[0]) = 5%", 0.05),
    ("prefill_time(tokens(prompt), w1)", "prefill_time(1000, a[0]) = 5s", 5),
    ("decode_time(10, w1)", "decode_time(10, a[0]) = 5s", 5),
    ("transfer_time(10, w0, w1)", "transfer_time(10, a[0], a[0]) = 5s", 5),
    ("evict_time(10, w1)", "evict_time(10, a[0]) = 5s", 5),
    ("hit_rate(w1)", "hit_rate(a[0]) = 5%", 0.05),
    ("decode_share(w1)", "decode_share(a[0]) = 5%", 0.05),
    ("wait_growth(w1)", "wait_growth(a[0]) = 3", 3),
    ("ttft(used)", "ttft(used) = 5s", 5),
)


@pytest.mark.parametrize(("expression", "given", "expected"), OBSERVATIONS)
def test_observations(expression: str, given: str, expected: object) -> None:
    assert value(expression, given) == expected


def test_no_observation_is_left_out() -> None:
    named = {expression.partition("(")[0] for expression, _, _ in OBSERVATIONS}
    calls = {name for name, each in builtins.CALLS.items() if name not in _FUNCTIONS_AND_CHOICES}
    assert named == calls | set(builtins.BARE)


_FUNCTIONS_AND_CHOICES = {
    *("next", "random", "sticky"),
    *("min", "max", "clamp", "abs", "floor"),
}


def test_an_impossible_route_takes_for_ever() -> None:
    assert value("ttft(other)") == math.inf
    assert 0 < value("ttft(used)") < 1


LOADS = ("load(a[0]) = 2s", "load(a[1]) = 1s", "load(a[2]) = 3s")
CHOICES: tuple[tuple[str, object], ...] = (
    ("argmin(load(w) for w in a)", "a-1"),
    ("argmin(load(w) for w in a where load(w) > 1s)", "a-0"),
    ("argmax(load(w) for w in a)", "a-2"),
    ("argmax(load(w) for w in a where load(w) < 3s)", "a-0"),
    ("next(a)", "a-0"),
    ("next([w for w in a where load(w) < 2s])", "a-1"),
    ("random([w for w in a where load(w) > 2s])", "a-2"),
    ("two_choices(load(w) for w in [w for w in a where load(w) > 1s])", "a-0"),
    ("sticky(session, [w for w in a where load(w) == 1s])", "a-1"),
    ("sticky(prompt[:256], [w for w in a where load(w) == 1s])", "a-1"),
    ("sticky(prompt, [w for w in a where load(w) == 1s])", "a-1"),
    ("min(load(w) for w in a)", 1),
    ("max(load(w) for w in a where load(w) < 3s)", 2),
    ("sum(load(w) for w in a)", 6),
    ("sum(load(w) for w in none)", 0),
    ("mean(load(w) for w in a)", 2),
    ("count(w for w in a)", 3),
    ("count(load(w) > 1s for w in a)", 2),
    ("count(w for w in a where load(w) > 1s)", 2),
    ("count(w for w in none)", 0),
    ("any(load(w) > 2s for w in a)", True),
    ("any(load(w) > 2s for w in none)", False),
    ("all(load(w) > 2s for w in a)", False),
    ("all(load(w) > 2s for w in none)", True),
)


@pytest.mark.parametrize(("expression", "expected"), CHOICES)
def test_choices_and_aggregates(expression: str, expected: object) -> None:
    assert value(expression, *LOADS) == expected


def test_no_choice_is_left_out() -> None:
    named = {expression.partition("(")[0] for expression, _ in CHOICES}
    assert named == set(builtins.FOLDS) | {"next", "random", "sticky"}


def test_a_definition_takes_numbers_workers_and_pools() -> None:
    declarations = """
    def twice(v) = v + v
    def most(some) = max(load(w) for w in some)
    def calm(w, some) = load(w) <= twice(most(some)) / 2
    """
    assert (
        value(
            "twice(most(a)) / 1s + 0 * (1 if calm(w1, a) else 0)", *LOADS, declarations=declarations
        )
        == 6
    )
    assert value("twice(keep) + 0 * (1 if calm(w1, a) else 0)", declarations=declarations) == 14


def test_sticky_finds_the_same_worker_for_the_same_key() -> None:
    keys = [f"user {number}" for number in range(20)]
    found = [value("sticky(session, a)", f'session = "{key}"') for key in keys]
    assert found == [value("sticky(session, a)", f'session = "{key}"') for key in keys]
    assert set(found) == {"a-0", "a-1", "a-2"}
    assert value("sticky(session, a)", "queued(a[0]) = 1", "running(a[1]) = 1") == "a-2"


# --- pool settings -------------------------------------------------------------------------------

POOL_SETTINGS: tuple[tuple[str, dict[str, object]], ...] = (
    ("queue = fcfs", {"queue": {"kind": "fcfs"}}),
    ("queue = hit_ratio(groups = 10)", {"queue": {"kind": "hit_ratio", "groups": 10}}),
    ("queue = deadline", {"queue": {"kind": "deadline"}}),
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
def test_pool_settings(setting: str, expected: dict[str, object]) -> None:
    strategy = clean(f"""
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


def test_every_line_of_a_test() -> None:
    strategy = clean("""
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
