"""Folds by columns give what folds element by element give."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.compiler import choices, evaluate
from mserve.compiler.frame import Missing, Value
from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.reference import Fact, ReferenceCluster
from mserve.dsl.check import Checked
from mserve.dsl.parser import parse
from mserve.dsl.source import Source

_NUMBERS = [
    "1",
    "0",
    "load(w)",
    "cached(w)",
    "queued(w)",
    "tokens(prompt)",
    "k",
    "prefill_time(cached(w), w)",
    "load(v)",
    "min(load(u) for u in few)",
    "evict_time(k, w)",
]


def numbers(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(_NUMBERS)
    if depth == 0:
        return leaf
    part = numbers(depth - 1)
    return st.one_of(
        leaf,
        st.builds("({} {} {})".format, part, st.sampled_from("+-*/"), part),
        st.builds("({} if {} < {} else {})".format, part, part, part, part),
        st.builds("max({}, {})".format, part, part),
    )


def folds() -> st.SearchStrategy[str]:
    value = numbers(2)
    where = st.builds("{} {} {}".format, value, st.sampled_from(["<", "==", "!=", ">="]), value)
    op = st.sampled_from(["argmin", "argmax", "sum", "max", "mean", "two_choices"])
    return st.builds("{}({} for w in many where {})".format, op, value, where)


def _value(fold: str, cluster: ReferenceCluster) -> Value:
    text = f"""
    strategy t ""
    pool many
    pool few
    let k = 3
    let v = argmax(load(w) for w in few)
    let x = {fold}
    route r {{ generate on v }}
    """
    source = Source.from_text(text)
    parsed = parse(source)
    assert not parsed.diagnostics
    strategy = compile_strategy(Checked(source, parsed.strategy, ()))
    try:
        return strategy.names.let("x")(strategy.new_frame(cluster))
    except Missing:
        return "missing"


@settings(max_examples=150, deadline=None)
@given(
    folds(),
    st.lists(st.sampled_from([0.0, 1.0, 2.0, math.inf]), min_size=3, max_size=3),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.integers(0, 1),
)
def test_columns_and_elements_agree(
    fold: str, loads: list[float], cached: list[int], num_few: int
) -> None:
    pools = {"many": ("p-0", "p-1", "p-2"), "few": ("f-0",)[:num_few]}
    facts: dict[Fact, object] = {}
    for worker, load, length in zip(pools["many"], loads, cached, strict=True):
        facts[("load", (worker,))] = load
        facts[("cached", (worker,))] = length
    cluster = ReferenceCluster(pools, facts)
    by_column = _value(fold, cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "compile_column", _elementwise)
        assert _value(fold, cluster) == by_column


@pytest.mark.parametrize(
    ("value", "largest"),
    [
        ("load(w) - load(w)", 0),
        ("load(w) + -1 * load(w)", 0),
        ("load(w) * 0", 0),
        ("load(w) / load(w)", 1),
    ],
)
def test_what_is_no_number_is_nought_in_columns_too(value: str, largest: float) -> None:
    """Worker by worker: inf - inf, inf * 0, inf / inf; the others have loads of 1 and 2."""
    workers = ("p-0", "p-1", "p-2")
    loads = zip(workers, (math.inf, 1.0, 2.0), strict=True)
    facts: dict[Fact, object] = {("load", (worker,)): load for worker, load in loads}
    cluster = ReferenceCluster({"many": workers, "few": ()}, facts)
    assert _value(f"max({value} for w in many)", cluster) == largest


def _elementwise(
    expr: object, variable: str, elementwise: Callable[..., choices.Column], once: object
) -> choices.Column:
    return elementwise(expr)
