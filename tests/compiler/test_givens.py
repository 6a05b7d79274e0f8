"""What `--given`, `--cluster` and `--set` say is checked as the same words in a test are."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.compiler.explain import PlanRequest, plan_view
from mserve.compiler.givens import GivenError, situation_from_text, situation_of
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
    ("asked", "sentence"),
    [
        (
            "load(a[0]) = 5",
            "`5`: expected a duration, found a count (a duration has a unit: `5ms` or `5s`)",
        ),
        (
            "tokens(prompt) = 5s",
            "`5s`: expected a count, found a duration (leave the unit out: `5`)",
        ),
        (
            "tenant = 5",
            '`5`: expected a text, found a bare number (a text stands in quotes: `"5"`)',
        ),
        (
            "w = 3",
            "`3`: expected a worker, found a bare number (name a worker by its position: `a[0]`)",
        ),
        ("urgent = 3", "`3`: expected a truth value, found a bare number"),
        ("kv_used(a[0]) = 120%", "`kv_used(a[0]) = 120%`: `kv_used` is a share: at most 100%"),
        ("queued(a[0]) = -1", "`queued(a[0]) = -1`: `queued` is never negative (give 0 or more)"),
        ("tokens(prompt) = 0", "a prompt has a whole number of tokens, at least one"),
        ("tokens(prompt) = -3", "a prompt has a whole number of tokens, at least one"),
        ("tokens(prompt) = 2.5", "a prompt has a whole number of tokens, at least one"),
        (
            "load(a[1]) = 5s",
            "there is no worker a[1] in a cluster with a = 1; positions count from 0",
        ),
        ("lod(a[0]) = 5s", "'lod' is not an observation that can be given; did you mean 'load'?"),
        ("load(w) = 5s", "`load(w)`: 'w' is chosen by the strategy; name a worker: `load(a[0])`"),
        ("load(a) = 5s", "`load(a)`: 'a' is a pool; name one of its workers: `load(a[0])`"),
        (
            "cached(x) = 5",
            "`cached(x)`: there is no worker 'x'; they are named by position: `cached(a[0])`",
        ),
        ("load(prompt) = 5s", "`load(prompt)`: a worker is named by its position: `load(a[0])`"),
        (
            "transfer_time(5, a[0], w) = 5s",
            (
                "`transfer_time(5, a[0], w)`: 'w' is chosen by the strategy; name a worker: "
                "`transfer_time(5, a[0], a[0])`"
            ),
        ),
        ("load(b[0]) = 5s", "there is no pool 'b'; the strategy has: a"),
        ("load() = 5s", "`load()`: `load` takes 1 argument, not 0 (write `load(WORKER)`)"),
        ("ttft() = 5s", "`ttft()` is written `ttft(r)`"),
        ("ttft(q) = 5s", "there is no route 'q'; the strategy has: r, s"),
        ("ttft = 5s", "'ttft' needs to be told of what: `ttft(r)`"),
        ("load = 5s", "'load' needs to be told of what: `load(a[0])`"),
        ("tokens = 5", "'tokens' needs to be told of what: `tokens(prompt)`"),
        ('header() = "x"', '`header()` is written `header("x-name")`'),
        ('header(x) = "x"', '`header(x)` is written `header("x-name")`'),
        ("a = 2", "'a' is a pool; how many workers it has is said by `cluster`"),
        ("r = 2", "'r' is a route; what can be given is its prediction, `ttft(r)`"),
        ("w = a", "'a' is a pool; name one of its workers: `w = a[0]`"),
        (
            "prioritty = 2",
            "'prioritty' is neither a binding, a param nor an observation; did you mean 'priority'?",
        ),
        ("tail = 95%", "'tail' goes from 0% to 90%, not 95%"),
        ("tail = 20", "'tail' goes from 0% to 90%, not 20; did you mean `20%`?"),
        ("load(a[0]) = 1s / 0", "what is given is finite"),
        ("max_tokens = 0", "an answer may have a whole number of tokens, at least one"),
        ("tokens(prompt) = 100000000000", "a prompt has at most 1,000,000,000 tokens here"),
        ("garbage", "--given `garbage`: write NAME = VALUE, like --given 'tokens(prompt) = 4000'"),
        ("", "--given is empty: write NAME = VALUE, like --given 'tokens(prompt) = 4000'"),
        ("load(a[0]) =", "--given `load(a[0]) =`: it ends too early"),
        ("tail = 20% }", "--given `tail = 20% }`: this `}` closes nothing (leave it out)"),
        (
            "tail = 20% expect route r",
            "--given `tail = 20% expect route r`: only NAME = VALUE can stand here",
        ),
        ("lode(a[0]) = 5s", "'lode' is not an observation that can be given"),
    ],
)
def test_what_makes_no_sense_is_refused(
    strategy: CompiledStrategy, asked: str, sentence: str
) -> None:
    with pytest.raises(GivenError) as refused:
        situation_from_text(strategy, givens=[asked])
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


@pytest.mark.parametrize(
    ("param", "sentence"),
    [
        ("tail", "--set `tail`: write PARAM=VALUE, like --set tail=20%"),
        ("tail=99%", "'tail' goes from 0% to 90%, not 99%"),
        ("tial=20%", "--set: there is no param 'tial'; did you mean 'tail'?"),
        ("head=20%", "--set: there is no param 'head'; the strategy has: tail"),
        ("w=a[0]", "--set: 'w' is a binding, no param: it is fixed with --given"),
        ("load(a[0])=2s", "--set is for params; what is observed is fixed with --given"),
        ("tail=5s", "'tail' goes from 0% to 90%, not 5s"),
    ],
)
def test_set_changes_params_only(strategy: CompiledStrategy, param: str, sentence: str) -> None:
    with pytest.raises(GivenError) as refused:
        situation_from_text(strategy, params=[param])
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ("a", "--cluster `a`: write POOL=COUNT, like --cluster decode=4"),
        ("b=2", "there is no pool 'b'; the strategy has: a"),
        ("a=many", "`cluster a` takes a number of workers"),
        ("a=2.5", "pool 'a' can have 0 to 1000 workers"),
        ("a=1/0", "pool 'a' can have 0 to 1000 workers"),
        ("a=2 given tail=20%", "--cluster `a=2 given tail=20%`: only POOL=COUNT can stand here"),
    ],
)
def test_cluster_is_about_pools(strategy: CompiledStrategy, cluster: str, sentence: str) -> None:
    with pytest.raises(GivenError) as refused:
        situation_from_text(strategy, [cluster])
    assert str(refused.value) == sentence


def test_a_pool_has_the_workers_that_its_setting_says() -> None:
    text = TEXT.replace("pool a", "pool a { workers = 3 }\npool b") + (
        """
test "without cluster" { given load(a[2]) = 5s  expect w = a[0] }
test "with cluster" { cluster a = 1  expect w = a[0] }
test "the other pool has one" { cluster a = 4  expect w = a[0] }"""
    )
    checked = check_text(text)
    assert [problem.rule for problem in checked.diagnostics] == ["unused-pool"]
    strategy = compile_strategy(checked)
    assert [len(pool) for pool in situation_from_text(strategy).cluster.pools.values()] == [3, 1]
    given = situation_from_text(strategy, givens=["load(a[2]) = 5s"])
    assert given.cluster.worker("load", "a-2") == 5.0
    assert situation_from_text(strategy, ["a=1"]).cluster.pools["a"] == ("a-0",)
    sizes = [
        len(situation_of(strategy, test.cluster, test.givens).cluster.pools["a"])
        for test in strategy.tree.tests
    ]
    assert sizes == [3, 1, 4]
    (problem,) = check_text(text.replace("a[2]) = 5s", "a[3]) = 5s")).diagnostics[1:]
    assert problem.message == "there is no `a[3]`: pool `a` has 3 workers in this test"


WORDS = """load cached tokens ttft header prefill_time transfer_time tail w urgent a b r prompt
tenant max_tokens ( ) ( ) [ ] [0] [9] [0.5] = = = , + - / * . { } < == not true for in if else "x" "
5 0 1e9 -1 2s 10% 64GiB inf given expect cluster route sends # é"""
PIECES = st.sampled_from([*WORDS.split(), "\n", "\x00"])
NOISE = st.lists(PIECES, max_size=8).map(" ".join) | st.lists(PIECES, max_size=8).map("".join)
OBSERVED = """load(a[0]) ttft(r) tail w urgent tokens(prompt) max_tokens header("x") cached(a[1])
prefill_time(5,a[0]) transfer_time(5,a[0],a[0]) kv_free(a[0]) priority expected_output"""
TARGETS = st.sampled_from(OBSERVED.split())
GARBAGE = st.text(max_size=12) | NOISE | st.tuples(TARGETS, NOISE).map(" = ".join)


@settings(max_examples=400, deadline=None)
@given(cluster=st.none() | GARBAGE, given_=st.none() | GARBAGE, param=st.none() | GARBAGE)
def test_garbage_is_a_sentence_or_a_plan(
    cluster: str | None, given_: str | None, param: str | None
) -> None:
    texts = [[] if text is None else [text] for text in (cluster, given_, param)]
    asked = PlanRequest(cluster=texts[0], givens=texts[1], params=texts[2])
    with suppress(GivenError):
        for style in ("text", "svg"):
            assert plan_view(COMPILED, asked, style).endswith("\n")


COMPILED = compile_strategy(check_text(TEXT))
