"""Evaluation over intervals is conservative: whatever is observed, the value lies inside."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.reference import Fact, ReferenceCluster
from mserve.dsl.check import Checked, check_text
from mserve.dsl.dependencies import find_order
from mserve.dsl.intervals import Interval, Intervals, Truth
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.symbols import Symbols

_HUGE = "9" * 400  # read as infinite
_LEAVES = ["0", "1", "2.5", "-3", _HUGE, "tail", "queued(w)", "kv_used(w)", "priority"]
_COMPARISONS = ["<", "<=", ">", ">=", "==", "!="]


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    condition = st.builds("{} {} {}".format, inner, st.sampled_from(_COMPARISONS), inner)
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("(-{})".format, inner),
        st.builds("({} if {} else {})".format, inner, condition, inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "twice"]), inner, inner),
        st.builds("clamp({}, {}, {})".format, inner, inner, inner),
        st.builds("{}({})".format, st.sampled_from(["abs", "floor"]), inner),
        st.builds("max({} for v in a)".format, inner),
    )


_NUMBERS = st.recursive(st.sampled_from(_LEAVES), _larger, max_leaves=6)
_CONDITIONS = st.builds("({} {} {})".format, _NUMBERS, st.sampled_from(_COMPARISONS), _NUMBERS)
_EXPRESSIONS = st.one_of(
    _NUMBERS,
    _CONDITIONS,
    st.builds("not {} and {}".format, _CONDITIONS, _CONDITIONS),
    st.builds("{} or {}".format, _CONDITIONS, _CONDITIONS),
)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
    expression=_EXPRESSIONS,
    queued=st.sampled_from([0, 1, 7]),
    used=st.sampled_from([0.0, 0.5, 1.0]),
    priority=st.sampled_from([-2.0, 0.0, 3.0]),
)
def test_values_lie_inside(expression: str, queued: int, used: float, priority: float) -> None:
    source = Source.from_text(f"""
    strategy s ""
    param tail = 10% in 0%..90%
    pool a
    def twice(x, y) = x + x * y
    let w = next(a)
    let x = {expression}
    route r {{ generate on w }}
    """)
    tree = parse(source).strategy
    symbols = Symbols.of(tree)
    found = Intervals(symbols, find_order(symbols)).lets["x"]
    facts: dict[Fact, object] = {
        ("queued", ("a-0",)): queued,
        ("kv_used", ("a-0",)): used,
        ("priority", ()): priority,
    }
    strategy = compile_strategy(Checked(source, tree, ()))
    frame = strategy.new_frame(ReferenceCluster({"a": ("a-0",)}, facts))
    value = strategy.names.let("x")(frame)
    if isinstance(found, Interval):
        assert found.low <= value <= found.high
    elif isinstance(found, Truth):
        assert found.can_hold if value else found.can_fail


@pytest.mark.parametrize("guard", [f"queued(w) * {_HUGE} > 5", f"{_HUGE} * kv_used(w) < 5"])
def test_a_product_with_an_infinite_number_may_be_nought(guard: str) -> None:
    checked = check_text(f"""strategy s ""
    pool a
    let w = argmin(load(v) for v in a)
    route r when {guard} {{ generate on w }}
    route q {{ generate on w }}
    """)
    assert checked.diagnostics == ()
