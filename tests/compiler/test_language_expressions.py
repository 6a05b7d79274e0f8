"""A row for every name and operator of the language guide's tables: it checks clean and has a value.

Declarations, steps and settings are test_language_table.py's.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy
from mserve.dsl import builtins


class Evaluate(Protocol):
    def __call__(self, expression: str, *givens: str, declarations: str = "") -> Any: ...


@pytest.fixture
def value(compile_clean: Callable[[str], CompiledStrategy]) -> Evaluate:
    """Of a checked expression, in a cluster of three a's, two b's and, of none, none."""

    def evaluate(expression: str, *givens: str, declarations: str = "") -> Any:
        strategy = compile_clean(f"""
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
        situation = situation_from_text(strategy, ["a=3", "b=2", "none=0"], givens)
        return strategy.names.let("x")(situation.frame(strategy))

    return evaluate


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
def test_expressions(value: Evaluate, expression: str, expected: object) -> None:
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
def test_observations(value: Evaluate, expression: str, given: str, expected: object) -> None:
    assert value(expression, given) == expected


def test_no_observation_is_left_out() -> None:
    named = {expression.partition("(")[0] for expression, _, _ in OBSERVATIONS}
    calls = {name for name, each in builtins.CALLS.items() if name not in _FUNCTIONS_AND_CHOICES}
    assert named == calls | set(builtins.BARE)


_FUNCTIONS_AND_CHOICES = {
    *("next", "random", "sticky"),
    *("min", "max", "clamp", "abs", "floor"),
}


def test_an_impossible_route_takes_for_ever(value: Evaluate) -> None:
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
def test_choices_and_aggregates(value: Evaluate, expression: str, expected: object) -> None:
    assert value(expression, *LOADS) == expected


def test_no_choice_is_left_out() -> None:
    named = {expression.partition("(")[0] for expression, _ in CHOICES}
    assert named == set(builtins.FOLDS) | {"next", "random", "sticky"}


def test_a_definition_takes_numbers_workers_and_pools(value: Evaluate) -> None:
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


def test_sticky_finds_the_same_worker_for_the_same_key(value: Evaluate) -> None:
    keys = [f"user {number}" for number in range(20)]
    found = [value("sticky(session, a)", f'session = "{key}"') for key in keys]
    assert found == [value("sticky(session, a)", f'session = "{key}"') for key in keys]
    assert set(found) == {"a-0", "a-1", "a-2"}
    assert value("sticky(session, a)", "queued(a[0]) = 1", "running(a[1]) = 1") == "a-2"
