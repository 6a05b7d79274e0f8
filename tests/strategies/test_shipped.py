"""The strategies that ship: clean, short, tested inside, and their plans as they were agreed on.

`UPDATE_GOLDEN=1 pytest tests/strategies` writes tests/golden/plans anew; read the difference.
"""

import os
from importlib.resources import files
from pathlib import Path

import pytest

from mserve.compiler.explain import PlanRequest, plan_text
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.testing import run_tests, untested_routes
from mserve.dsl.check import check_text

GOLDEN = Path(__file__).parents[1] / "golden" / "plans"
SHIPPED = {
    entry.name.removesuffix(".mserve"): entry.read_text("utf-8")
    for entry in files("mserve.strategies").iterdir()
    if entry.name.endswith(".mserve")
}
LONG = "tokens(prompt) = 4000"
SITUATIONS: dict[str, tuple[PlanRequest, ...]] = {
    "balanced": (
        PlanRequest(givens=[LONG]),
        PlanRequest(givens=[LONG, "cached(decode[0]) = 1000"], params=["tail = 0%"]),
        PlanRequest(givens=["tokens(prompt) = 100"]),
    ),
    "cache_aware": (
        PlanRequest(cluster=["decode = 2"], givens=[LONG, "cached(decode[1]) = 2000"]),
        PlanRequest(cluster=["decode = 2"], givens=[LONG, "cached(decode[1]) = 3900"]),
    ),
    "data_parallel": (PlanRequest(cluster=["workers = 3"]),),
    "least_loaded": (PlanRequest(cluster=["workers = 2"], givens=["load(workers[0]) = 1s"]),),
    "migration": (
        PlanRequest(
            cluster=["workers = 2"],
            givens=[LONG, "cached(workers[0]) = 3000", "load(workers[0]) = 5s"],
        ),
        PlanRequest(cluster=["workers = 1"], givens=[LONG]),
    ),
    "prefill_decode": (
        PlanRequest(givens=[LONG, "prefill_backlog(prefill[0]) = 100ms"]),
        PlanRequest(cluster=["prefill = 0"], givens=[LONG]),
        PlanRequest(givens=["tokens(prompt) = 1"]),
    ),
}


def compiled(name: str) -> CompiledStrategy:
    return compile_strategy(check_text(SHIPPED[name], f"{name}.mserve"))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_it_is_clean_and_short(name: str) -> None:
    text = SHIPPED[name]
    checked = check_text(text, f"{name}.mserve")
    assert checked.diagnostics == ()
    assert checked.strategy is not None
    assert checked.strategy.name == name
    assert len(text.splitlines()) < 40
    assert text.startswith("# ")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_its_tests_pass_and_reach_every_route(name: str) -> None:
    strategy = compiled(name)
    results = run_tests(strategy)
    assert [(result.title, result.failures) for result in results if result.failures] == []
    assert untested_routes(strategy, results) == ()


@pytest.mark.parametrize("name", sorted(SITUATIONS))
def test_its_plans_are_the_golden_ones(name: str) -> None:
    strategy = compiled(name)
    views = [plan_text(strategy, asked) for asked in (PlanRequest(), *SITUATIONS[name])]
    text = f"{'-' * 80}\n".join(views)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def test_the_runtime_can_execute_what_ships() -> None:
    assert {name: compiled(name).unsupported for name in SITUATIONS} == dict.fromkeys(
        SITUATIONS, ()
    )
