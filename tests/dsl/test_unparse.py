"""Trees as text: what is written is read back as the same tree, with no parenthesis too many."""

from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.dsl import syntax
from mserve.dsl.format import format_source, format_tree
from mserve.dsl.literals import SUFFIXES, number_value
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.syntax import NOWHERE
from mserve.dsl.unparse import expression

_T = TypeVar("_T")

# --- any tree there can be -------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b2", "_c", "longer_name", "load", "tokens"])
_LITERALS = st.builds(
    lambda digits, suffix: syntax.Number(
        NOWHERE, *number_value(digits + suffix), text=digits + suffix
    ),
    st.sampled_from(["0", "5", "1.5", "100000", "12.25"]),
    st.sampled_from(["", *SUFFIXES]),
)
_TEXTS = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=10)
_LEAVES = st.one_of(
    _LITERALS,
    _TEXTS.map(lambda value: syntax.Text(NOWHERE, value)),
    st.booleans().map(lambda value: syntax.Boolean(NOWHERE, value)),
    _NAMES.map(lambda name: syntax.Name(NOWHERE, name)),
    st.builds(lambda pool, index: syntax.WorkerAt(NOWHERE, pool, index), _NAMES, st.integers(0, 9)),
)
_Exprs = st.SearchStrategy[syntax.Expr]


def _larger(inner: _Exprs) -> _Exprs:
    optional = st.none() | inner
    ops = st.sampled_from(["+", "-", "*", "/", "and", "or", "<", "<=", ">", ">=", "==", "!="])
    several = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.builds(lambda op, x: syntax.Unary(NOWHERE, op, x), st.sampled_from(["-", "not"]), inner),
        *(
            2
            * [
                st.builds(
                    lambda op, x, y: syntax.Binary(NOWHERE, op, NOWHERE, x, y), ops, inner, inner
                )
            ]
        ),
        st.builds(lambda x, c, y: syntax.Conditional(NOWHERE, x, c, y), inner, inner, inner),
        st.builds(lambda name, args: syntax.Call(NOWHERE, name, NOWHERE, args), _NAMES, several),
        st.builds(
            lambda op, value, variable, pool, where: syntax.Fold(
                NOWHERE, op, NOWHERE, value, variable, pool, where
            ),
            *(_NAMES, inner, _NAMES, inner, optional),
        ),
        st.builds(
            lambda variable, pool, where: syntax.Filter(NOWHERE, variable, pool, where),
            *(_NAMES, inner, optional),
        ),
        st.builds(lambda a, b: syntax.PromptRange(NOWHERE, a, b), optional, optional),
    )


_EXPRESSIONS: _Exprs = st.recursive(_LEAVES, _larger, max_leaves=12)
_RANGES = st.just(syntax.Rest(NOWHERE)) | st.builds(
    lambda a, b: syntax.PromptRange(NOWHERE, a, b),
    *(st.none() | _EXPRESSIONS, st.none() | _EXPRESSIONS),
)
_STEPS = st.one_of(
    *(
        st.builds(lambda r, w, make=make: make(NOWHERE, r, w), _RANGES, _EXPRESSIONS)
        for make in (syntax.Compute, syntax.Reuse, syntax.Replicate)
    ),
    st.builds(
        lambda count, w: syntax.Generate(NOWHERE, count, w), st.none() | _EXPRESSIONS, _EXPRESSIONS
    ),
)
_UPDATES = st.builds(
    lambda name, x: syntax.Setting(NOWHERE, name, NOWHERE, x), _NAMES, _EXPRESSIONS
)
# A call in a setting reads as a variant, so values here are none.
_VARIANTS = st.builds(
    lambda name, args: syntax.SettingCall(NOWHERE, name, NOWHERE, tuple(args)),
    _NAMES,
    st.lists(
        st.builds(lambda name, x: syntax.Setting(NOWHERE, name, NOWHERE, x), _NAMES, _LEAVES),
        min_size=1,
        max_size=3,
    ),
)
_SETTINGS = st.builds(
    lambda name, x: syntax.Setting(NOWHERE, name, NOWHERE, x), _NAMES, _LEAVES | _VARIANTS
)
_EXPECTATIONS = st.one_of(
    _NAMES.map(lambda name: syntax.ExpectRoute(NOWHERE, name, NOWHERE)),
    st.builds(lambda a, b: syntax.ExpectValue(NOWHERE, a, b), _EXPRESSIONS, _EXPRESSIONS),
    st.builds(
        lambda a, b, w, v: syntax.ExpectSends(NOWHERE, syntax.PromptRange(NOWHERE, a, b), w, v),
        *(st.none() | _EXPRESSIONS, st.none() | _EXPRESSIONS, _EXPRESSIONS, _EXPRESSIONS),
    ),
)
_TARGETS = st.one_of(
    _NAMES.map(lambda name: syntax.Name(NOWHERE, name)),
    st.builds(
        lambda name, x: syntax.Call(NOWHERE, name, NOWHERE, (x,)),
        *(_NAMES, _LEAVES),
    ),
)


def _few(items: st.SearchStrategy[_T]) -> st.SearchStrategy[tuple[_T, ...]]:
    return st.lists(items, max_size=2).map(tuple)


_STRATEGIES = st.builds(
    lambda name, text, **groups: syntax.Strategy(NOWHERE, name, NOWHERE, text, **groups),
    _NAMES,
    _TEXTS,
    params=_few(
        st.builds(
            lambda name, *values: syntax.Param(NOWHERE, name, NOWHERE, *values),
            *(_NAMES, _EXPRESSIONS, _EXPRESSIONS, _EXPRESSIONS),
        )
    ),
    pools=_few(
        st.builds(lambda n, s: syntax.Pool(NOWHERE, n, NOWHERE, s), _NAMES, _few(_SETTINGS))
    ),
    lets=_few(st.builds(lambda n, x: syntax.Let(NOWHERE, n, NOWHERE, x), _NAMES, _EXPRESSIONS)),
    defs=_few(
        st.builds(
            lambda n, p, x: syntax.Def(NOWHERE, n, NOWHERE, p, x),
            _NAMES,
            _few(_NAMES),
            _EXPRESSIONS,
        )
    ),
    routes=_few(
        st.builds(
            lambda n, g, s: syntax.Route(NOWHERE, n, NOWHERE, g, s),
            *(_NAMES, st.none() | _EXPRESSIONS, _few(_STEPS)),
        )
    ),
    adapts=_few(st.builds(lambda x, u: syntax.Adapt(NOWHERE, x, u), _EXPRESSIONS, _few(_UPDATES))),
    slos=_few(_few(_SETTINGS).map(lambda goals: syntax.Slo(NOWHERE, goals))),
    limits=_few(_few(_SETTINGS).map(lambda limits: syntax.Limits(NOWHERE, limits))),
    tests=_few(
        st.builds(
            lambda title, c, g, e: syntax.Test(NOWHERE, title, c, g, e),
            *(_TEXTS, _few(_UPDATES)),
            _few(st.builds(lambda t, x: syntax.Given(NOWHERE, t, x), _TARGETS, _EXPRESSIONS)),
            _few(_EXPECTATIONS),
        )
    ),
)


# --- what is written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("a / (b * c)", "a / (b * c)"),
        ("(a + b) * c + (d * e)", "(a + b) * c + d * e"),
        ("-(a + b) * -(c)", "-(a + b) * -c"),
        ("(a < b) == (c < d)", "(a < b) == (c < d)"),
        ("not (a and b) or (c and not d)", "not (a and b) or c and not d"),
        ("(a if b else c) if d else (e if f else g)", "(a if b else c) if d else e if f else g"),
        ("a if (b if c else d) else e", "a if (b if c else d) else e"),
        ("f((a), [v for v in (p) where (b)])", "f(a, [v for v in p where b])"),
        ("-(-a) - (-b)", "--a - -b"),
    ],
)
def test_only_needed_parentheses_are_written(text: str, plain: str) -> None:
    let = parse(Source.from_text(f'strategy a "b"\nlet x = {text}')).strategy.lets[0]
    assert expression(let.value) == plain


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(_EXPRESSIONS)
def test_every_expression_is_read_back(expr: syntax.Expr) -> None:
    let = syntax.Let(NOWHERE, "x", NOWHERE, expr)
    whole = syntax.Strategy(NOWHERE, "a", NOWHERE, "b", (), (), (let,), (), (), (), (), (), ())
    found = parse(Source.from_text(format_tree(whole)))
    assert found.diagnostics == ()
    assert found.strategy == whole


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(_STRATEGIES)
def test_every_tree_is_read_back(tree: syntax.Strategy) -> None:
    text = format_tree(tree)
    found = parse(Source.from_text(text))
    assert found.diagnostics == ()
    assert found.strategy == tree
    assert format_source(Source.from_text(text)).text == text
