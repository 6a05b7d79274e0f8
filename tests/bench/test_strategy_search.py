"""bench/strategy_search.py: what is tried, and how it is told."""

from dataclasses import replace

import pytest

import strategy_search
from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_text
from strategy_search import SETTINGS, cluster_of, runs_of, searched, table, variants_of
from strategy_variants import CHUNKED, SHIPPED, SOONER, edited, small_steps, source


@pytest.mark.parametrize("name", [*CHUNKED, *SOONER])
def test_what_is_tried_can_be_served(name: str) -> None:
    text = {**CHUNKED, **SOONER}[name]
    checked = check_text(text, "variant.mserve")
    assert checked.diagnostics == ()
    assert not compile_strategy(checked).unsupported


def test_every_variant_is_another() -> None:
    texts = [*CHUNKED.values(), *SOONER.values()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_source_is_the_strategy_without_its_tests(name: str) -> None:
    text = source(name)
    assert "\ntest " not in text
    assert check_text(text, f"{name}.mserve").diagnostics == ()


def test_a_change_of_what_is_not_there_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="no 'margin = 1ms' any more"):
        edited("param margin = 60ms", ("margin = 1ms", "margin = 2ms"))


def test_small_steps_leave_the_other_settings() -> None:
    text = small_steps("preble_live", 512)
    assert "tokens = 512, chunk = 512" in text
    assert "queue = hit_ratio(groups = 10)" in text


def test_half_of_the_workers_are_for_prompts() -> None:
    assert cluster_of(source("least_loaded"), 4) == {"workers": 4}
    assert cluster_of(source("deflect"), 4) == {"prefill": 2, "decode": 2}


def test_a_trace_comes_in_windows_instead_of_seeds() -> None:
    made = runs_of("x", source("deflect"), SETTINGS["mix"], "", range(4, 6))
    assert [(run.traffic, run.seed, run.skip) for run in made] == [
        ("mix:rate=10,num=2000", 4, 0),
        ("mix:rate=10,num=2000", 5, 0),
    ]
    taken = runs_of("x", source("deflect"), SETTINGS["mooncake"], "trace.jsonl", range(4, 6))
    assert [(run.traffic, run.skip, run.num) for run in taken] == [
        ("trace.jsonl", 0, 1000),
        ("trace.jsonl", 1000, 1000),
    ]


def test_a_row_for_each_variant() -> None:
    setting = replace(SETTINGS["mix"], num=6)
    variants = {name: source(name) for name in ("least_loaded", "deflect_sooner")}
    lines = table(searched(setting, variants, "", range(1, 3), num_processes=1))
    assert lines[0].startswith("| | mean time to first token | per token |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| least_loaded", "| deflect_sooner"]
    assert all(" ± " in line for line in lines[2:])


def test_shipped_strategies_are_compared_unless_the_search_is_asked_for() -> None:
    assert set(variants_of(None)) == {f"`{name}`" for name in SHIPPED}
    assert set(variants_of("sooner")) == set(SOONER)


def test_a_trace_has_to_be_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["strategy_search.py", "--on", "mooncake"])
    with pytest.raises(SystemExit):
        strategy_search.main()
    assert "--mooncake FILE" in capsys.readouterr().err
