"""Why a route was taken or passed over, in the strategy's words and the values they had."""

import pytest

from mserve.compiler.explain import PlanRequest, plan_text
from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_text

TEXT = """\
strategy reasons ""
param patience = 500ms in 0s..1min
pool a {{ workers = 3 }}
pool b
def lazy(w) = load(w) < patience
let x = argmin(load(w) for w in a where cached(w) > 10)
let y = argmax(load(w) for w in a)
let calm = load(y) < 2 * patience
let near = tokens(prompt) / 3
route r when {guard} {{ generate on y }}
route other {{ generate on next(b) }}
"""
GIVENS = ["load(a[1]) = 600ms", "load(a[2]) = 1.5s", 'tenant = "x"', "priority = 2"]


@pytest.mark.parametrize(
    ("guard", "outcome"),
    [
        ("tokens(prompt) > 100", "taken, tokens(prompt) > 100 holds (1000 > 100)"),
        ("load(y) < patience", "passed over, load(y) < patience does not hold (1.5s < 500ms)"),
        (
            "tokens(prompt) > 100 and load(y) < 1s",
            "passed over, load(y) < 1s does not hold (1.5s < 1s)",
        ),
        (
            "tokens(prompt) > 100 and load(y) > 1s",
            "taken, tokens(prompt) > 100 holds (1000 > 100); load(y) > 1s holds (1.5s > 1s)",
        ),
        ("load(y) > 1s or tokens(prompt) > 5", "taken, load(y) > 1s holds (1.5s > 1s)"),
        (
            "load(y) < 1s or tokens(prompt) < 5",
            (
                "passed over, load(y) < 1s does not hold (1.5s < 1s); "
                "tokens(prompt) < 5 does not hold (1000 < 5)"
            ),
        ),
        ("not (load(y) > 1s)", "passed over, load(y) > 1s holds (1.5s > 1s)"),
        ("not ((load(y)) > (1s))", "passed over, (load(y)) > (1s) holds (1.5s > 1s)"),
        ("not calm", "taken, calm does not hold"),
        ("kv_used(y) < 90%", "taken, kv_used(y) < 90% holds (0% < 90%)"),
        ('tenant == "y"', 'passed over, tenant == "y" does not hold ("x" == "y")'),
        ("y == x", "passed over, x is missing"),
        ("min(load(w) for w in a where queued(w) > 3) < 1s", "passed over, something it needs"),
        (
            "all(lazy(w) for w in a)",
            "passed over, all(lazy(w) for w in a) does not hold (a[1]: 600ms < 500ms)",
        ),
        (
            "any(load(w) > 1s for w in a where w != y)",
            "passed over, any(load(w) > 1s for w in a where w != y) does not hold",
        ),
        (
            "any(load(w) > 1s for w in a)",
            "taken, any(load(w) > 1s for w in a) holds (a[2]: 1.5s > 1s)",
        ),
        (
            "near < 333.333333334",
            "taken, near < 333.333333334 holds (333.33333333333 < 333.333333334)",
        ),
    ],
)
def test_an_outcome_has_its_reason(guard: str, outcome: str) -> None:
    checked = check_text(TEXT.format(guard=guard))
    strategy = compile_strategy(checked)
    text = plan_text(strategy, PlanRequest(givens=GIVENS))
    assert f"  route  r: {outcome}" in text


def test_what_the_decision_did_not_need_is_not_evaluated_for_its_reasons() -> None:
    strategy = compile_strategy(check_text(TEXT.format(guard="load(y) > 1s or load(x) > 1s")))
    text = plan_text(strategy, PlanRequest(givens=GIVENS))
    assert "let    y = a[2]" in text
    assert "let    x" not in text
    assert "let    calm" not in text
