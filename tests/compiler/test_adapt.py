"""`adapt`: params follow what is observed of the pools, within their ranges."""

import json

import pytest

from mserve.compiler.explain import PlanRequest, plan_text, plan_view
from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.plan import RemoteSend
from mserve.dsl.check import check_text

TEXT = """
strategy adapting ""
param tail = 10% in 0%..90%
param most = 8 in 1..64
param spare = 1 in 0..64
pool prefill
pool decode
def backlog(workers) = mean(prefill_backlog(w) for w in workers)
adapt every 5s { tail = tail + 10% * (backlog(prefill) - backlog(decode)) / 1s }
adapt every 2min { most = sum(queued(w) for w in decode where queued(w) > 2) + 1  spare = most / 4 }
let d = argmin(load(w) for w in decode)
route busy when queued(d) > most + spare { generate on d }
route split { compute prompt[:100% - tail] on argmin(load(w) for w in prefill)  generate on d }
"""


@pytest.fixture
def strategy() -> CompiledStrategy:
    checked = check_text(TEXT)
    assert checked.diagnostics == ()
    return compile_strategy(checked)


def adapted(
    strategy: CompiledStrategy, block: int, *givens: str, cluster: str = "decode = 1"
) -> dict[str, float]:
    view = situation_from_text(strategy, [cluster], givens).cluster
    return strategy.adapt(view, strategy.adaptations[block])


@pytest.mark.parametrize(
    ("waiting", "tail"),
    [("prefill[0]) = 2s", 0.3), ("prefill[0]) = 60s", 0.9), ("decode[0]) = 500ms", 0.05)],
)
def test_a_param_follows_the_backlog_within_its_range(
    strategy: CompiledStrategy, waiting: str, tail: float
) -> None:
    found = adapted(strategy, 0, f"prefill_backlog({waiting}")
    assert found == pytest.approx({"tail": tail})


def test_a_backlog_beyond_the_range_stops_at_its_lower_end(strategy: CompiledStrategy) -> None:
    assert adapted(strategy, 0, "prefill_backlog(decode[0]) = 1min") == {"tail": 0.0}


def test_updates_of_a_block_see_the_params_as_they_were(strategy: CompiledStrategy) -> None:
    found = adapted(
        strategy, 1, "queued(decode[0]) = 9", "queued(decode[1]) = 2", cluster="decode = 2"
    )
    assert found == {"most": 10, "spare": 2}


def test_what_is_missing_leaves_its_param_alone(strategy: CompiledStrategy) -> None:
    assert adapted(strategy, 0, cluster="decode = 0") == {}
    assert adapted(strategy, 1, cluster="decode = 0") == {"most": 1, "spare": 2}


def test_every_block_has_its_own_interval(strategy: CompiledStrategy) -> None:
    assert [block.every_s for block in strategy.adaptations] == [5.0, 120.0]
    assert strategy.observes >= {"prefill_backlog", "queued"}


def test_all_blocks_together(strategy: CompiledStrategy) -> None:
    view = situation_from_text(strategy, [], ["prefill_backlog(prefill[0]) = 2s"]).cluster
    assert strategy.adapt(view) == pytest.approx({"tail": 0.3, "most": 1, "spare": 2})


def test_nothing_changes_before_it_is_set(strategy: CompiledStrategy) -> None:
    situation = situation_from_text(strategy, [], ["prefill_backlog(prefill[0]) = 2s"])
    for name, value in strategy.adapt(situation.cluster, strategy.adaptations[0]).items():
        assert strategy.values[name] == 0.1
        strategy.set_param(name, value)
    decision = strategy.decide(situation.cluster)
    assert decision is not None
    assert [s.end for s in decision.plan.steps if isinstance(s, RemoteSend)] == [700]


def test_a_situation_shows_what_would_become_of_the_params(strategy: CompiledStrategy) -> None:
    asked = PlanRequest(givens=["prefill_backlog(prefill[0]) = 2s"], params=["tail = 20%"])
    assert "\n  adapt  tail = 40%, from 20%\n" in plan_text(strategy, asked)
    assert json.loads(plan_view(strategy, asked, "json"))["adapted"]["tail"] == pytest.approx(0.4)
