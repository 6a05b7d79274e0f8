"""Values of expressions: arithmetic, missing workers, choices and their ties."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mserve.compiler.frame import Missing
from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.scope import CompileError

Evaluate = Callable[..., Any]

_TEXT = """
strategy t ""
param ratio = 25% in 0%..100%
pool a
pool b
pool none
{declarations}
let x = {expression}
route r {{ generate on a }}
"""


@pytest.fixture
def evaluate(compile_text: Callable[[str], CompiledStrategy]) -> Evaluate:
    """The value of an expression in a cluster of three a's, two b's and no worker in `none`."""

    def run(expression: str, *givens: str, declarations: str = "") -> Any:
        strategy = compile_text(_TEXT.format(expression=expression, declarations=declarations))
        cluster = ["a = 3", "b = 2", "none = 0"]
        frame = situation_from_text(strategy, cluster, givens).frame(strategy)
        return strategy.names.let("x")(frame)

    return run


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3 - 4 / 2", 5),
        ("-(1 - 3)", 2),
        ("1 / 0", math.inf),
        ("-1 / 0", -math.inf),
        ("0 / 0", 0),
        ("1 / 0 - 1 / 0", 0),
        ("(1 / 0) / (1 / 0)", 0),
        ("0 * (1 / 0)", 0),
        ("1 / 0 + -1 / 0", 0),
        ("min(3, 1, 2)", 1),
        ("max(3, 1)", 3),
        ("clamp(7, 0, 5)", 5),
        ("clamp(-1, 0, 5)", 0),
        ("abs(-2)", 2),
        ("floor(2.9)", 2),
        ("floor(1 / 0)", math.inf),
        ("50ms * 4", 0.2),
        ("2GiB / 1GiB", 2),
        ("1 if 2 < 1 else 3", 3),
        ("1 < 2 and not (2 <= 1 or 3 != 3)", True),
        ('tenant == "x" or 1 >= 2', False),
        ("tokens(prompt)", 1000),
        ("tokens(prompt[:25%])", 250),
        ("tokens(prompt[600:10000])", 400),
        ("tokens(prompt[600:100])", 0),
        ("ratio * 4", 1),
        ("max_tokens", 256),
        ("cached(a[1])", 0),
        ("prefill_time(0, a[0])", 0),
        ("transfer_time(0, a[0], b[0])", 0),
    ],
)
def test_values(evaluate: Evaluate, expression: str, value: object) -> None:
    assert evaluate(expression) == pytest.approx(value)


def test_request_observations(evaluate: Evaluate) -> None:
    assert evaluate('tenant == "x"', 'tenant = "x"') is True
    assert evaluate('header("X-Kind")', 'header("x-kind") = "batch"') == "batch"
    assert evaluate("expected_output", "expected_output = 12") == 12


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("min(load(w) for w in a)", 1),
        ("max(load(w) for w in a)", 3),
        ("sum(load(w) for w in a)", 6),
        ("mean(load(w) for w in a)", 2),
        ("count(w for w in a where load(w) > 1s)", 2),
        ("count(load(w) > 1s for w in a)", 2),
        ("any(load(w) > 2s for w in a)", True),
        ("all(load(w) > 2s for w in a)", False),
        ("sum(load(w) for w in none)", 0),
        ("count(w for w in none)", 0),
        ("any(load(w) > 1s for w in none)", False),
        ("all(load(w) > 1s for w in none)", True),
        ("argmin(load(w) for w in a)", "a-1"),
        ("argmax(load(w) for w in a)", "a-2"),
        ("argmin(load(w) for w in a where load(w) > 1s)", "a-0"),
        ("argmin(load(w) for w in [w for w in a where load(w) > 1s] where load(w) > 2s)", "a-2"),
        ("sum(min(load(v) for v in a where load(v) >= load(w)) for w in a)", 6),
        ("sum(load(w) if load(w) > 1s else 10s for w in a)", 15),
        ("sum(load(w) for w in a where load(w) > 1s and load(w) < 3s)", 2),
    ],
)
def test_folds(evaluate: Evaluate, expression: str, value: object) -> None:
    loads = ["load(a[0]) = 2s", "load(a[1]) = 1s", "load(a[2]) = 3s"]
    assert evaluate(expression, *loads) == value


@pytest.mark.parametrize(
    "expression",
    [
        "min(load(w) for w in none)",
        "max(load(w) for w in none)",
        "mean(load(w) for w in none)",
        "argmin(load(w) for w in none)",
        "argmax(load(w) for w in a where load(w) > 1s)",
        "two_choices(load(w) for w in none)",
        "next(none)",
        "random(none)",
        'sticky("key", none)',
        "load(argmin(load(w) for w in none))",
        "1s + min(load(w) for w in none)",
        "sum(min(load(v) for v in none) for w in a)",
        "b[2]",
    ],
)
def test_missing(evaluate: Evaluate, expression: str) -> None:
    with pytest.raises(Missing):
        evaluate(expression)


def test_what_is_not_evaluated_cannot_be_missing(evaluate: Evaluate) -> None:
    missing = "min(load(w) for w in none)"
    assert evaluate(f"1s if 1 < 2 else {missing}") == 1
    assert evaluate(f"1 < 2 or {missing} < 1s") is True
    assert evaluate(f"sum({missing} for w in none)") == 0
    assert evaluate(f"sum({missing} for w in a where load(w) > 1s)") == 0


def test_ties_go_to_fewest_requests_then_pool_order(evaluate: Evaluate) -> None:
    assert evaluate("argmin(load(w) for w in a)") == "a-0"
    assert evaluate("argmax(load(w) for w in a)", "queued(a[0]) = 2") == "a-1"
    busy = ["queued(a[0]) = 2", "running(a[1]) = 1", "running(a[2]) = 1"]
    assert evaluate("argmin(cached(w) for w in a)", *busy) == "a-1"


def test_lets_are_evaluated_inside_anothers_loop(evaluate: Evaluate) -> None:
    """A let met for the first time in the middle of a loop must not disturb the loop's variable."""
    loads = ["load(a[0]) = 2s", "load(a[1]) = 1s", "load(a[2]) = 3s"]
    declarations = "let low = min(load(w) for w in a where load(w) < 2s or load(w) > 2s)"
    folded = "sum(low + load(w) if load(w) > 0s and low > 0s else 0s for w in a)"
    assert evaluate(folded, *loads, declarations=declarations) == 9


def test_definitions(evaluate: Evaluate) -> None:
    declarations = """
    def more(w, k) = load(w) + k
    def spread(k) = sum(k for w in a where load(w) > 0s)
    """
    loads = ["load(a[0]) = 2s", "load(a[1]) = 1s"]
    assert evaluate("more(a[0], 1s)", *loads, declarations=declarations) == 3
    captured = "sum(spread(load(w)) for w in a)"  # the argument's `w` is not the body's
    assert evaluate(captured, *loads, declarations=declarations) == 2 * (2 + 1)


def test_random_choices_are_pure_and_spread(
    compile_text: Callable[[str], CompiledStrategy],
) -> None:
    strategy = compile_text(
        _TEXT.format(declarations="let y = random(a)", expression="two_choices(load(w) for w in a)")
    )
    situation = situation_from_text(strategy, ["a = 8"], ["load(a[0]) = 9s"])
    picked: dict[str, set[str]] = {"x": set(), "y": set()}
    for seed in range(200):
        seeded = replace(situation, cluster=replace(situation.cluster, seed=seed))
        for name, seen in picked.items():
            first, again = [strategy.names.let(name)(seeded.frame(strategy)) for _ in range(2)]
            assert first == again
            seen.add(first)
    everyone = {f"a-{i}" for i in range(8)}
    assert picked["y"] == everyone
    assert picked["x"] == everyone - {"a-0"}  # the loaded one loses every comparison


def test_sticky_moves_only_the_keys_of_a_lost_worker(evaluate: Evaluate) -> None:
    keys = [f"user{i}" for i in range(40)]
    before = {key: evaluate(f'sticky("{key}", a)') for key in keys}
    after = {
        key: evaluate(f'sticky("{key}", [w for w in a where load(w) < 1s])', "load(a[2]) = 2s")
        for key in keys
    }
    assert set(before.values()) == {"a-0", "a-1", "a-2"}
    assert all(after[key] == before[key] for key in keys if before[key] != "a-2")


def test_sticky_by_prompt_and_without_a_key(evaluate: Evaluate) -> None:
    assert evaluate("sticky(prompt[:256], a)") == evaluate("sticky(prompt[:256], a)")
    assert evaluate("sticky(session, a)", "running(a[0]) = 1") == "a-1"


def test_a_let_defined_by_itself_is_refused(
    compile_text: Callable[[str], CompiledStrategy],
) -> None:
    with pytest.raises(CompileError, match="is defined by itself"):
        compile_text(_TEXT.format(declarations="let y = x + 1s", expression="y * 2"))


def test_bindings_that_build_on_too_many_others_are_refused(
    compile_text: Callable[[str], CompiledStrategy],
) -> None:
    def chain(length: int) -> str:
        lets = [f"let v{i} = sum(v{i + 1} + v{i + 1} for w in b) / 2" for i in range(length)]
        return "\n".join([*lets, f"let v{length} = 1s"])

    strategy = compile_text(_TEXT.format(declarations=chain(70), expression="v0"))
    frame = situation_from_text(strategy, ["b = 2"]).frame(strategy)
    assert strategy.names.let("x")(frame) == 2.0**70
    with pytest.raises(CompileError, match="nest more than 300 deep"):
        compile_text(_TEXT.format(declarations=chain(5000), expression="v0"))
