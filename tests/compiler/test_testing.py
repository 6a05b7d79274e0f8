"""Tests in the language: what passes, and what a failure says."""

from collections.abc import Callable

import pytest

from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.testing import run_tests, untested_routes

Compile = Callable[[str], CompiledStrategy]

STRATEGY = """
strategy t ""
param tail = 10% in 0%..90%
pool prefill
pool decode
let p = argmin(load(w) for w in prefill)
let d = argmin(load(w) for w in decode)
let wanted = tokens(prompt) - cached(d)
route short when wanted < 256 {{ generate on d }}
route split {{ compute prompt[:100% - tail] on p  generate on d }}
test "t" {{
  {body}
}}
"""


def failures(compile_text: Compile, body: str) -> tuple[str, ...]:
    (result,) = run_tests(compile_text(STRATEGY.format(body=body)))
    return result.failures


@pytest.mark.parametrize(
    "body",
    [
        "expect route split",
        "given tokens(prompt) = 100  expect route short",
        "cluster decode = 2  given load(decode[0]) = 1s  expect d = decode[1]",
        "given cached(decode[0]) = 200  expect wanted = 800",
        "given tail = 20%  expect sends [:800] from prefill[0] to decode[0]",
        "given tail = 20%  expect sends [0:80%] from prefill[0] to decode[0]",
        "given cached(decode[0]) = 200  expect sends [200:900] from prefill[0] to decode[0]",
        "cluster decode = 2  given d = decode[1]  expect sends [:900] from prefill[0] to decode[1]",
        "given ttft(split) = 5s  expect ttft(split) = 5s",
        "expect ttft(split) < 1s",
        "cluster decode = 0",
        'given tenant = "x", header("x-kind") = "y"  expect tenant = "x"',
    ],
)
def test_what_holds_passes(compile_text: Compile, body: str) -> None:
    assert failures(compile_text, body) == ()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("expect route short", "expected route short, got split"),
        ("cluster decode = 0  expect route short", "expected route short, got no route"),
        ("cluster decode = 0  expect d = 1", "expected d = 1, got missing"),
        ("cluster decode = 2  expect d = decode[1]", "expected d = decode[1], got decode[0]"),
        ("expect wanted = 7", "expected wanted = 7, got 1000"),
        ("expect wanted < 7", "expected wanted < 7, got 1000 < 7"),
        ("expect load(d) > 1s and wanted < 7", "expected load(d) > 1s and wanted < 7, got 0s > 1s"),
        (
            "cluster decode = 0  expect load(d) < 1s",
            "expected load(d) < 1s, but something in it is missing",
        ),
        ("expect load(d) = 1s", "expected load(d) = 1s, got 0s"),
        ("given tail = 20%  expect tail = 0.1", "expected tail = 10%, got 20%"),
        (
            "expect sends [:800] from prefill[0] to decode[0]",
            "expected sends [0:800] from prefill[0] to decode[0], got [0:900] from prefill[0] to decode[0]",
        ),
        (
            "given cached(decode[0]) = 900  expect sends [:9] from prefill[0] to decode[0]",
            "expected sends [0:9] from prefill[0] to decode[0], got none",
        ),
        (
            "given load(decode[3]) = 1s",
            "there is no worker decode[3] in a cluster with decode = 1; positions count from 0",
        ),
        ("given tail = 95%", "'tail' goes from 0% to 90%, not 95%"),
        ("cluster workers = 2", "there is no pool 'workers'; the strategy has: prefill, decode"),
        ("cluster decode = 1.5", "pool 'decode' can have 0 to 1000 workers"),
        ("given nothing = 1", "'nothing' is neither a binding, a param nor an observation"),
        ("given ttft(slow) = 1s", "there is no route 'slow'; the strategy has: short, split"),
        ("given random(decode) = 1", "'random' is not an observation that can be given"),
        (
            "given tokens(prompt) = load(decode[0])",
            (
                "`load(decode[0])` is no value that can be given: that is a constant, like `2s`, `10%` or "
                '`"text"`, or a worker, like `prefill[0]`'
            ),
        ),
    ],
)
def test_a_failure_is_a_sentence(compile_text: Compile, body: str, sentence: str) -> None:
    assert failures(compile_text, body) == (sentence,)


def test_routes_no_test_reaches(compile_text: Compile) -> None:
    strategy = compile_text(STRATEGY.format(body="expect route split"))
    assert untested_routes(strategy, run_tests(strategy)) == ("short",)
