"""What checks clean can be compiled and decided: the bounds of the front end are the tighter ones."""

from bisect import bisect_left
from collections.abc import Callable

import pytest

from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.testing import run_tests
from mserve.dsl.check import Checked, check_text

_DEFINITIONS = """
def twice(x) = once(once(x))
def once(x) = max(x, 1) + 1
"""
_PLAIN = [
    "x{} + 1",
    "x{}",
    "-(-(x{}))",
    "max(x{}, 5)",
    "x{0} if x{0} > 5 else 6",
    "once(twice(x{}))",
]


def _chain(value: str, length: int) -> Checked:
    lets = "".join(f"let x{i} = {value.format(i - 1)}\n" for i in range(1, length))
    return check_text(
        'strategy chain "bindings on bindings"\npool workers\nlet x0 = tokens(prompt)\n'
        f"{lets}{_DEFINITIONS}route a when twice(x{length - 1}) != 12345 {{ generate on next(workers) }}\n"
        "route b { generate on next(workers) }\n"
        'test "runs" { given tokens(prompt) = 5000  expect route a }'
    )


def _predictions(length: int) -> Checked:
    """Each route's worker depends on the predicted time of the one before."""
    routes = "".join(
        f"let w{i} = q if ttft(r{i - 1}) < 5s else p\nroute r{i} when load(q) > 5s {{ generate on w{i} }}\n"
        for i in range(1, length)
    )
    return check_text(
        'strategy chain "predictions on predictions"\npool workers\n'
        "let p = argmin(load(w) for w in workers)\nlet q = argmax(load(w) for w in workers)\n"
        f"route r0 when ttft(r{length - 1}) < 5s {{ generate on p }}\n{routes}"
        'route last { generate on p }\ntest "runs" { expect route r0 }'
    )


def _longest(chain: Callable[[int], Checked]) -> int:
    """The length of the longest chain that is clean; the next is too expensive, and nothing else."""
    longest = bisect_left(range(320), True, key=lambda length: bool(chain(length).diagnostics)) - 1
    assert {each.rule for each in chain(longest + 1).diagnostics} == {"too-expensive"}
    (result,) = run_tests(compile_strategy(chain(longest)))
    assert result.failures == ()
    return longest


@pytest.mark.parametrize("value", _PLAIN)
def test_the_longest_chain_that_is_clean_decides(value: str) -> None:
    assert 20 < _longest(lambda length: _chain(value, max(1, length))) < 310


def test_the_longest_chain_of_predictions_that_is_clean_decides() -> None:
    assert 10 < _longest(lambda length: _predictions(max(2, length))) < 310
