"""Text to syntax tree: values, spans, precedence, and what is left after mistakes of form."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from mserve.dsl import syntax
from mserve.dsl.broken_examples import MISTAKES
from mserve.dsl.broken_examples.mistake import Mistake
from mserve.dsl.check import check_text
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.mistakes import stop_of
from mserve.dsl.parser import MAX_NESTING, parse
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span, Unit
from mserve.dsl.tables import build_parser, grammar_text

_BALANCED = """\
strategy balanced "disaggregation; \\"decode\\" prefills the tail"

param tail = 10% in 0%..90%          # tunable while serving

pool prefill
pool decode { batch = continuous(tokens = 8192)  prefetch = peer(prefill)  queue = fcfs }

let p = argmin(load(w) for w in prefill)
let d = argmin(load(w) for w in [v for v in decode where queued(v) < 3])
def late(a, b) = a > b

route short when tokens(prompt) - cached(d) < 256 {   # little left to compute
  generate on d
}
route split {
  reuse prompt[:10%] from d
  compute prompt[10%:100% - tail] on p
  compute rest on d
  generate 5 on d
  generate on p if late(load(d), 5s) else d
  replicate prompt to p
}
adapt every 5s { tail = clamp(mean(kv_used(w) for w in decode), 0%, 90%) }
slo { ttft = 500ms }
limits { retries = 2 }
test "a long prompt is split at nine tenths" {
  cluster decode = 2, prefill = 3
  given tokens(prompt) = 4000, header("x-a") = "b"
  expect route split
  expect sends [:3600] from prefill[0] to decode[0]
  expect p = prefill[0]
  expect load(p) < 3s
}
"""


def _parse(text: str) -> syntax.Strategy:
    parsed = parse(Source.from_text(text))
    assert parsed.diagnostics == ()
    return parsed.strategy


def _expression(text: str) -> syntax.Expr:
    return _parse(f'strategy s "t"\nlet x = {text}').lets[0].value


def _nodes(node: Any) -> Iterator[syntax.Node]:
    yield node
    for field in fields(node):
        value = getattr(node, field.name)
        for child in value if isinstance(value, tuple) else [value]:
            if is_dataclass(child) and not isinstance(child, Span):
                yield from _nodes(child)


def test_spans_are_exact_and_never_empty() -> None:
    source = Source.from_text(_BALANCED)
    strategy = parse(source).strategy
    for node in _nodes(strategy):
        assert node.span.start < node.span.end
        for field in fields(node):
            value = getattr(node, field.name)
            if isinstance(value, Span) and field.name != "span":
                assert node.span.start <= value.start < value.end <= node.span.end
    route = strategy.routes[1]
    assert source.slice(route.name_span) == "split"
    assert source.slice(route.steps[1].span) == "compute prompt[10%:100% - tail] on p"
    assert source.slice(strategy.lets[0].value.span) == "argmin(load(w) for w in prefill)"
    sends = strategy.tests[0].expectations[1]
    assert isinstance(sends, syntax.ExpectSends)
    assert source.slice(sends.range.span) == "[:3600]"


def test_names_have_their_spans() -> None:
    source = Source.from_text(_BALANCED)
    strategy = parse(source).strategy
    for node in _nodes(strategy):
        if isinstance(node, syntax.Call):
            assert source.slice(node.name_span) == node.name
        if isinstance(node, syntax.Fold | syntax.Filter):
            assert source.slice(node.variable_span) == node.variable
        if isinstance(node, syntax.Fold):
            assert source.slice(node.op_span) == node.op
        if isinstance(node, syntax.Binary):
            assert source.slice(node.op_span) == node.op
        if isinstance(node, syntax.Def):
            assert [source.slice(span) for span in node.parameter_spans] == list(node.parameters)


def test_every_declaration_is_kept_in_order() -> None:
    strategy = _parse(_BALANCED)
    assert strategy.name == "balanced"
    assert strategy.description == 'disaggregation; "decode" prefills the tail'
    assert [pool.name for pool in strategy.pools] == ["prefill", "decode"]
    assert [route.name for route in strategy.routes] == ["short", "split"]
    assert [type(step).__name__ for step in strategy.routes[1].steps] == [
        "Reuse",
        "Compute",
        "Compute",
        "Generate",
        "Generate",
        "Replicate",
    ]
    test = strategy.tests[0]
    assert [size.name for size in test.cluster] == ["decode", "prefill"]
    assert len(test.givens) == 2
    assert len(test.expectations) == 4


def test_settings_are_constants_words_or_variants() -> None:
    batch, prefetch, queue = _parse(_BALANCED).pools[1].settings
    assert isinstance(batch.value, syntax.SettingCall)
    assert (batch.value.name, batch.value.args[0].name) == ("continuous", "tokens")
    assert isinstance(prefetch.value, syntax.SettingCall)
    assert (prefetch.value.name, prefetch.value.args[0].name) == ("peer", "")
    assert isinstance(queue.value, syntax.Name)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("256", 256.0, Unit.NONE),
        ("1.5", 1.5, Unit.NONE),
        ("10%", 0.1, Unit.RATIO),
        ("12.5%", 0.125, Unit.RATIO),
        ("30us", 0.00003, Unit.DURATION),
        ("50ms", 0.05, Unit.DURATION),
        ("2s", 2.0, Unit.DURATION),
        ("5min", 300.0, Unit.DURATION),
        ("1.5h", 5400.0, Unit.DURATION),
        ("7B", 7.0, Unit.BYTES),
        ("64GiB", 64 * 2.0**30, Unit.BYTES),
    ],
)
def test_literals_are_in_base_units(text: str, value: float, unit: Unit) -> None:
    number = _expression(text)
    assert number == syntax.Number(Span(0, 0), value, unit, text)
    assert isinstance(number, syntax.Number)
    assert number.text == text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_grammar_knows_every_suffix(suffix: str) -> None:
    number = _expression(f"3{suffix}")
    assert isinstance(number, syntax.Number)
    assert number.unit is not Unit.NONE


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("-a * b", "(-a) * b"),
        ("a < b + c", "a < (b + c)"),
        ("not a < b", "not (a < b)"),
        ("not a and b or c", "((not a) and b) or c"),
        ("a if b else c if d else e", "a if b else (c if d else e)"),
        ("a or b if c else d", "(a or b) if c else d"),
    ],
)
def test_precedence(text: str, same: str) -> None:
    assert _expression(text) == _expression(same)
    assert _expression("(a - b) - c") != _expression("a - (b - c)")


def test_equality_leaves_spans_and_spelling_out() -> None:
    assert _expression("prompt[: 50% ]") == _expression("prompt[:50.0%]")
    assert _expression("5 + x") != _expression("5 - x")


@pytest.mark.parametrize(
    "deep",
    [
        "(" * 300 + "1" + ")" * 300,
        "(" * 300,
        "-" * 5000 + "1",
        "1" + " + 1" * 5000,
        "not " * 5000 + "true",
        "1 if true else " * 5000 + "1",
        "f(" * 300 + "1" + ")" * 300,
    ],
)
def test_nesting_is_bounded(deep: str) -> None:
    parsed = parse(Source.from_text(f'strategy s "t"\nlet x = {deep}'))
    assert {diagnostic.rule for diagnostic in parsed.diagnostics} == {"syntax"}
    assert _expression("(" * MAX_NESTING + "1" + ")" * MAX_NESTING)


@pytest.mark.parametrize("text", [_BALANCED.replace("\n", "\r\n"), _BALANCED.replace(" ", "\t")])
def test_line_ends_and_tabs_make_no_difference(text: str) -> None:
    assert _parse(text).routes == _parse(_BALANCED).routes


def test_what_can_be_read_is_kept() -> None:
    text = 'strategy s "t"\nlet a = 1\nlet b 2\nlett c = 3\nroute r { generate d }\nlet e = 5'
    parsed = parse(Source.from_text(text))
    assert [let.name for let in parsed.strategy.lets] == ["a", "c", "e"]
    assert parsed.unread == {"b", "r"}
    assert len(parsed.diagnostics) == 3


def test_the_grammar_is_strict_lalr() -> None:
    build_parser(grammar_text())
    with pytest.raises(Exception, match=r"Reduce/Reduce|Shift/Reduce"):
        build_parser(grammar_text().replace('"where" expr', '"if" expr'))


def test_every_example_of_a_mistake_is_found_by_what_it_shows() -> None:
    """No example is hidden by an earlier one of another mistake."""
    labels: dict[tuple[object, str, str], Mistake] = {}
    for mistake in MISTAKES:
        for example in mistake.examples:
            stop, keyword = stop_of(example)
            known = labels.setdefault((stop.position, stop.kind, keyword), mistake)
            assert known is mistake, f"{example} reads as: {known.message}"


def test_a_let_inside_of_braces_that_a_mistake_left_empty_ends_there() -> None:
    text = 'strategy a "b"\nslo {\n ttft = 500ms tpot { 50ms }\n let p = 1\n'
    messages = [each.message for each in check_text(text).diagnostics]
    assert messages == ["a setting is written `name = value`"]
