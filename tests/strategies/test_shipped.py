"""The strategies that ship: clean, short, tested inside, and their plans as they were agreed on.

`UPDATE_GOLDEN=1 pytest tests/strategies` writes tests/golden/plans anew; read the difference.
"""

import os
from importlib.resources import files
from pathlib import Path

import pytest

from mserve.compiler.explain import PlanRequest, plan_text
from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.testing import run_tests, untested_routes
from mserve.dsl.check import check_text
from mserve.dsl.format import format_source
from mserve.dsl.source import Source
from mserve.runtime.cli.strategies import servable
from mserve.runtime.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "plans"
SHIPPED = {
    entry.name.removesuffix(".mserve"): entry.read_text("utf-8")
    for entry in files("mserve.strategies").iterdir()
    if entry.name.endswith(".mserve")
}
LONG = "tokens(prompt) = 4000"
SITUATIONS: dict[str, tuple[PlanRequest, ...]] = {
    "adaptive": (PlanRequest(givens=[LONG, "prefill_backlog(prefill[0]) = 2s"]),),
    "aligned": (PlanRequest(givens=[LONG]),),
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
    "deflect": (
        PlanRequest(givens=[LONG, "prefill_backlog(prefill[0]) = 1s"]),
        PlanRequest(givens=[LONG, "cached(decode[0]) = 1000"]),
    ),
    "deflect_chunked": (
        PlanRequest(givens=[LONG, "prefill_backlog(prefill[0]) = 1s"]),
        PlanRequest(givens=[LONG, "prefill_backlog(decode[0]) = 200ms"]),
    ),
    "deflect_sooner": (
        PlanRequest(givens=[LONG, "prefill_backlog(prefill[0]) = 1s"]),
        PlanRequest(
            givens=[LONG, "cached(decode[0]) = 3900", "prefill_backlog(prefill[0]) = 50ms"]
        ),
    ),
    "handoff": (
        PlanRequest(cluster=["workers = 2"], givens=[LONG, "load(workers[1]) = 1s"]),
        PlanRequest(
            cluster=["workers = 2"],
            givens=[LONG, "load(workers[0]) = 20ms", "cached(workers[0]) = 3900"],
        ),
    ),
    "least_loaded": (PlanRequest(cluster=["workers = 2"], givens=["load(workers[0]) = 1s"]),),
    "lmetric": (PlanRequest(cluster=["workers = 2"], givens=[LONG, "cached(workers[1]) = 3000"]),),
    "longest_prefix": (
        PlanRequest(cluster=["workers = 2"], givens=[LONG, "cached(workers[1]) = 3000"]),
    ),
    "migration": (
        PlanRequest(
            cluster=["workers = 2"],
            givens=[LONG, "cached(workers[0]) = 3000", "load(workers[0]) = 5s"],
        ),
        PlanRequest(cluster=["workers = 1"], givens=[LONG]),
    ),
    "pipeline_prefill": (
        PlanRequest(cluster=["prefill = 3"], givens=["tokens(prompt) = 10000"]),
        PlanRequest(cluster=["prefill = 3"], givens=[LONG]),
    ),
    "preble": (
        PlanRequest(
            cluster=["workers = 3"],
            givens=[LONG, "cached(workers[1]) = 3000", "wait_growth(workers[1]) = 3"],
        ),
        PlanRequest(
            cluster=["workers = 3"],
            givens=[LONG, "cached(workers[1]) = 3000", "recent(workers[1]) = 10s"],
        ),
    ),
    "preble_live": (
        PlanRequest(
            cluster=["workers = 3"],
            givens=[LONG, "cached(workers[1]) = 3000", "load(workers[1]) = 10s"],
        ),
    ),
    "preble_pd": (
        PlanRequest(
            cluster=["prefill = 2", "decode = 2"],
            givens=[LONG, "cached(prefill[1]) = 3000", "load(decode[0]) = 1s"],
        ),
        PlanRequest(givens=[LONG, "cached(decode[0]) = 3990"]),
    ),
    "prefill_decode": (
        PlanRequest(givens=[LONG, "prefill_backlog(prefill[0]) = 100ms"]),
        PlanRequest(cluster=["prefill = 0"], givens=[LONG]),
        PlanRequest(givens=["tokens(prompt) = 1"]),
    ),
    "round_robin": (PlanRequest(cluster=["workers = 3"]),),
    "sglang_cache_aware": (
        PlanRequest(cluster=["workers = 2"], givens=[LONG, "cached(workers[1]) = 3000"]),
        PlanRequest(cluster=["workers = 2"], givens=[LONG, "running(workers[1]) = 70"]),
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
def test_it_is_in_canonical_form(name: str) -> None:
    assert format_source(Source.from_text(SHIPPED[name])).text == SHIPPED[name]


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


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_it_can_be_served(name: str) -> None:
    assert compiled(name).unsupported == ()


@pytest.mark.parametrize("setting", ["prefetch = local", "prefetch = peer(a)"])
def test_what_the_runtime_has_no_part_for_is_refused_with_a_sentence(
    setting: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.mserve"
    route = "route r { compute prompt on next(a)  generate on next(b) }"
    path.write_text(f'strategy mine "x"\npool a\npool b {{ {setting} }}\n{route}\n')
    with pytest.raises(ConfigError) as refused:
        servable(str(path))
    sentence = f"Pool 'b': `{setting.removesuffix('(a)')}` is not executed yet: KV comes back"
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_it_stands_in_the_table_of_strategies(name: str) -> None:
    guide = (Path(__file__).parents[2] / "strategies" / "README.md").read_text("utf-8")
    (row,) = [line for line in guide.splitlines() if line.startswith(f"| [`{name}`]")]
    assert row.startswith(f"| [`{name}`]({name}.mserve) |")
    assert row.endswith("| yes |")


def test_every_strategy_has_golden_plans() -> None:
    assert set(SITUATIONS) == set(SHIPPED) == {path.stem for path in GOLDEN.glob("*.txt")}


def test_adaptive_shifts_work_to_the_pool_that_waits_less() -> None:
    strategy = compiled("adaptive")
    for givens, tail in (
        (("prefill_backlog(prefill[0]) = 2s",), 0.2),
        (("prefill_backlog(decode[0]) = 1s",), 0.05),
        (("prefill_backlog(prefill[0]) = 1h",), 0.9),
    ):
        view = situation_from_text(strategy, givens=givens).cluster
        assert strategy.adapt(view) == {"tail": pytest.approx(tail)}
