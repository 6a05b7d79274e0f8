"""Goals of a strategy: workers are told how urgent a request is, and metrics who met them."""

from typing import Any

import pytest

from mserve.compiler.plan import SloSpec


def run(kit: Any, slo: SloSpec, script: Any = None) -> tuple[list[Any], str]:
    """The calls of one request at either worker, and the metrics after it."""
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = script
    _, router = kit.execute(cluster, kit.Strategy(kit.generate_on_first, slo=slo))
    calls = [call for worker in cluster.workers.values() for call in worker.calls]
    return calls, router.metrics.metrics.render()


def test_a_call_says_when_its_first_token_is_wanted(kit: Any) -> None:
    (call,), _ = run(kit, SloSpec(ttft_s=30.0))
    assert 29.0 < call.deadline_s <= 30.0


def test_without_a_goal_nothing_is_said(kit: Any) -> None:
    (call,), text = run(kit, SloSpec(tpot_s=None))
    assert call.deadline_s is None
    assert "slo_total{" not in text


def test_an_answer_that_goes_on_elsewhere_is_wanted_at_once(kit: Any) -> None:
    (_, second), _ = run(kit, SloSpec(ttft_s=30.0), kit.Script(lose_after=3))
    assert second.deadline_s == 0.0


@pytest.mark.parametrize(
    ("slo", "counted"),
    [
        (SloSpec(30.0, 30.0), {"ttft": "yes", "tpot": "yes", "all": "yes"}),
        (SloSpec(0.0, 30.0), {"ttft": "no", "tpot": "yes", "all": "no"}),
        (SloSpec(None, 0.0), {"tpot": "no", "all": "no"}),
    ],
)
def test_metrics_count_who_met_the_goals(kit: Any, slo: SloSpec, counted: dict[str, str]) -> None:
    _, text = run(kit, slo)
    lines = [line for line in text.splitlines() if line.startswith("mserve_router_slo_total{")]
    expected = {
        f'mserve_router_slo_total{{goal="{goal}",met="{met}"}} 1' for goal, met in counted.items()
    }
    assert set(lines) == expected
