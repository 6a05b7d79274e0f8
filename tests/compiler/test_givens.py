"""What `--given`, `--cluster` and `--set` say is checked as the same words in a test are."""

import pytest

from mserve.compiler.givens import GivenError, situation_from_text
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.dsl.check import check_text

TEXT = """\
strategy t ""
param tail = 10% in 0%..90%
pool a
let w = argmin(load(v) for v in a)
let urgent = priority > 1
route r when urgent and tail < 50% { generate on w }
route s { generate on next(a) }"""  # without a line end


@pytest.fixture
def strategy() -> CompiledStrategy:
    return compile_strategy(check_text(TEXT))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("load(a[0]) = 5", "`5`: expected a duration, found a count (give it a unit: `5ms`)"),
        ("tokens(prompt) = 5s", "`5s`: expected a count, found a duration"),
        ("tenant = 5", "`5`: expected a text, found a bare number"),
        ("w = 3", "`3`: expected a worker, found a bare number"),
        ("urgent = 3", "`3`: expected a truth value, found a bare number"),
        ("kv_used(a[0]) = 120%", "`kv_used(a[0]) = 120%`: `kv_used` is a share: at most 100%"),
        ("queued(a[0]) = -1", "`queued(a[0]) = -1`: `queued` is never negative"),
        ("tokens(prompt) = 0", "a prompt has a whole number of tokens, at least one"),
        ("tokens(prompt) = -3", "a prompt has a whole number of tokens, at least one"),
        ("tokens(prompt) = 2.5", "a prompt has a whole number of tokens, at least one"),
        ("load(a[1]) = 5s", "there is no worker a[1] in a cluster with a = 1"),
        ("lode(a[0]) = 5s", "'lode' is not an observation that can be given"),
    ],
)
def test_what_makes_no_sense_is_refused(
    strategy: CompiledStrategy, given: str, sentence: str
) -> None:
    with pytest.raises(GivenError) as refused:
        situation_from_text(strategy, givens=[given])
    assert str(refused.value) == sentence


def test_givens_are_checked_against_each_other(strategy: CompiledStrategy) -> None:
    with pytest.raises(GivenError, match="more is cached of the prompt than it is long"):
        situation_from_text(strategy, givens=["tokens(prompt) = 10", "cached(a[0]) = 11"])


def test_predictions_can_be_given_beside_what_a_test_can(strategy: CompiledStrategy) -> None:
    situation = situation_from_text(
        strategy,
        ["a = 2"],
        ["ttft(r) = 5s", "prefill_time(10, a[1]) = 3s", "w = a[1]", "urgent = true"],
        ["tail=20%"],
    )
    assert situation.forecasts == {"r": 5.0}
    assert situation.cluster.prefill_time(10, "a-1") == 3.0
    assert situation.bindings == {"w": "a-1", "urgent": True}
    assert situation.params == {"tail": 0.2}
