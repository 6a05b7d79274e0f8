"""Completion where it is needed: in texts that are broken at the cursor, marked by `|`."""

import pytest

from mserve.dsl import builtins, settings
from mserve.dsl.lalr import spelling
from mserve.dsl.server.completion import Completion, Item, complete
from mserve.dsl.server.vocabulary import KEYWORDS
from mserve.dsl.source import Source
from mserve.dsl.tables import load_parser

_ABOVE = """\
strategy s "t"
param tail = 10% in 0%..90%
pool prefill { queue = fcfs }
pool decode
let p = argmin(load(w) for w in prefill)
let d = argmin(load(w) for w in decode)   # the calm one
let n = tokens(prompt)
let calm = load(d) < 1s
let near = [v for v in decode where cached(v) > 0]
def late(w, extra) = load(w) + extra
"""
_BELOW = """
route last { generate on d }
test "below" { expect route last }
"""
WORKERS = {"p", "d"}
CHOICES = {"next", "random", "two_choices", "sticky", "argmin", "argmax"}
SETTINGS = set(settings.POOL)
DECLARATIONS = {"param", "pool", "let", "def", "route", "adapt", "slo", "limits", "test"}
OBSERVED = {"load", "cached", "queued", "tokens", "max_tokens"}


def completed(text: str) -> Completion:
    offset = text.index("|")
    return complete(Source.from_text(text.replace("|", "", 1)), offset)


def labels(between: str) -> set[str]:
    return {item.label for item in completed(_ABOVE + between + _BELOW).items}


def item(between: str, label: str) -> Item:
    found = completed(_ABOVE + between + _BELOW).items
    return next(each for each in found if each.label == label)


@pytest.mark.parametrize(
    ("between", "exactly"),
    [
        # at the top level only declarations
        ("|", {*DECLARATIONS, "route … when"}),
        ("ro|", {*DECLARATIONS, "route … when"}),
        ("let x = 5s\n|", {*DECLARATIONS, "route … when"}),
        ("let x = \n|", {*DECLARATIONS, "route … when"}),
        ("route r {\n  generate on d\n|", {*DECLARATIONS, "route … when"}),
        # names are the author's to choose
        ("let |", set()),
        ("pool |", set()),
        ("route |", set()),
        ("def f(|", set()),
        ("let x = argmin(load(w) for |", set()),
        # settings that are not given yet, and their words
        ("pool x { |", SETTINGS),
        ("pool x {\n  |\n}", SETTINGS),
        ("pool x { queue = fcfs  |  gpus = 2 }", SETTINGS - {"queue", "gpus"}),
        ("pool x { que|  gpus = 2 }", SETTINGS - {"gpus"}),
        ("pool x { queue = | }", {"fcfs", "hit_ratio", "deadline", "priority"}),
        ("pool x { queue = hit|", {"fcfs", "hit_ratio", "deadline", "priority"}),
        ("pool x { = prefetch = |", {"none", "local", "peer"}),
        ("pool x { prefetch = peer(|", {"prefill", "decode"}),
        ("pool decode2 {\n  batch = continuous(|)\n}", {"tokens", "chunk"}),
        ("pool x { batch = continuous(tokens = 5, |", {"chunk"}),
        ("pool x { batch = continuous(tokens = |", set()),
        ("pool x { workers = |", set()),
        ("pool |{ }", set()),
        ("slo { |", {"ttft", "tpot"}),
        ("limits { retries = 2  |", {"timeout"}),
        # routes
        ("route r |", {"when"}),
        ("route r when calm |", {"and", "or", "if"}),
        ("route r {\n  |\n}", {"compute", "reuse", "generate", "replicate"}),
        ("route r { |", {"compute", "reuse", "generate", "replicate"}),
        ("route r {\n  compute prompt on p\n  gen|", {"compute", "reuse", "generate", "replicate"}),
        ("route r {\n  generate on d\n  |\n}", {"generate", "replicate"}),
        ("route {\n  |\n}", {"compute", "reuse", "generate", "replicate"}),
        ("route r {\n  compute |", {"prompt", "prompt[:b]", "prompt[a:]", "prompt[a:b]"}),
        ("route r {\n  replicate | to d\n}", {"prompt", "prompt[:b]", "prompt[a:]", "prompt[a:b]"}),
        (
            "route r {\n  compute prompt[:5] on p\n  reuse |",
            {"prompt", "prompt[:b]", "prompt[a:]", "prompt[a:b]", "rest"},
        ),
        ("route r {\n  compute prompt |", {"on"}),
        ("route r {\n  reuse prompt |", {"from"}),
        ("route r { generate on d |", {"generate", "replicate", "if"}),
        ("route r {\n  compute prompt[ on p\n  |\n}", {"compute", "reuse", "generate", "replicate"}),
        ("route r {\n  compute prompt[:] p\n  |\n}", {"compute", "reuse", "generate", "replicate"}),
        ("pool x {\n  queue fcfs\n  |\n}", SETTINGS),
        # where a worker is chosen only workers
        ("route r { generate on |", WORKERS | {"late"} | CHOICES),
        ("route r { generate on |\n}", WORKERS | {"late"} | CHOICES),
        ("route r {\n  compute prompt[ on p\n  generate on |\n}", WORKERS | {"late"} | CHOICES),
        ("route r {\n  reuse prompt from |", WORKERS | {"late"} | CHOICES),
        ("route r { replicate prompt to |", WORKERS | {"late"} | CHOICES),
        ("let x = load(|", WORKERS | {"late", "sticky", "argmin", "argmax"}),
        ("let x = argmin(load(|) for v in decode)", WORKERS | {"v", "late", *CHOICES} - {"next", "random", "two_choices"}),
        # pools, routes, prompts
        ("let x = argmin(load(w) for w in |", {"prefill", "decode", "near", "[v for v in …]"}),
        ("let x = argmin(load(w) for w in | where calm)", {"prefill", "decode", "near", "[v for v in …]"}),
        ("let x = argmin(load(w) for w in decode |", {"where"}),
        ("let x = next(|", {"prefill", "decode", "near", "[v for v in …]"}),
        ("let x = sticky(tenant, |", {"prefill", "decode", "near", "[v for v in …]"}),
        ("let x = ttft(|", {"last"}),
        ("let x = tokens(|", {"prompt"}),
        ("let x = n |", {"and", "or", "if"}),
        ("let x = n if calm |", {"and", "or", "else"}),
        # params
        ("param x = 1s |", {"in"}),
        ("param x = |", set()),
        ("param x = 1s in |", set()),
        ("adapt |", {"every"}),
        ("adapt every 5s { |", {"tail"}),
        ("adapt every 5s { tail = 5%  |", set()),
        # tests
        ('test "x" { |', {"cluster", "given", "expect"}),
        ('test "x" {\n  expect route last\n  |\n}', {"cluster", "given", "expect"}),
        ('test {\n  |\n}', {"cluster", "given", "expect"}),
        ('test "x" { cluster |', {"prefill", "decode"}),
        ('test "x" { cluster decode = 2, |', {"prefill"}),
        ('test "x" { cluster decode = |', set()),
        ('test "x" { expect route |', {"last"}),
        ('test "x" { expect route | }', {"last"}),
        ('test "x" { given d = |', {"prefill[0]", "decode[0]"}),
        ('test "x" { cluster decode = 2 expect d = |', {"prefill[0]", "decode[0]", "decode[1]"}),
        ('test "x" { given calm = |', {"true", "false"}),
        ('test "x" { given tokens(prompt) = |', set()),
        ('test "x" {\n  given load( = 5s\n  expect route |\n}', {"last"}),
        ('test "x" { expect sends |', set()),
        ('test "x" { expect sends [:5] |', {"from"}),
        ('test "x" { expect sends [:5] from d |', {"to"}),
        ('test "x" { expect sends [:5] from |', {"prefill[0]", "decode[0]", *WORKERS, "late"}),
        ('test "x" { given load(|) = 5s }', {"prefill[0]", "decode[0]", *WORKERS, "late"}),
        # where nothing is completed
        ("# let x = |", set()),
        ("let x = 5   # on |", set()),
        ('let x = header("x-|")', set()),
        ('let x = header("x-|', set()),
        ("let x = 10|", set()),
        ("let x = 10m|", set()),
        ("let x = 1.|", set()),
    ],
)  # fmt: skip
def test_exactly(between: str, exactly: set[str]) -> None:
    assert labels(between) == exactly


@pytest.mark.parametrize(
    ("between", "among", "not_among"),
    [
        ("let x = |", {*WORKERS, *CHOICES, *OBSERVED, "n", "calm", "late"}, {"x", "near", "prefill", "on"}),
        ("let x = (|", {*WORKERS, "n", "load"}, {"next"}),
        ("let x = n + |", {"n", "tail", "load", "min", "late"}, {*WORKERS, "calm", "tenant", "decode"}),
        ("let x = d == |", {*WORKERS, "argmin"}, {"next", "prefill"}),
        ("let x = n < |", {"n", "tail", "load"}, {*WORKERS, "calm"}),
        ("let x = n if |", {"calm", "not", "true", "load"}, {*WORKERS, "decode", "argmin"}),
        ("route r when |", {"calm", "not", "any", "load", "n"}, {*WORKERS, "prefill", "argmin"}),
        ("route r when calm and |", {"calm", "not", "any", "load", "n"}, {*WORKERS, "when"}),
        ("route r { generate on d if calm else |", WORKERS | {"argmin"}, {"n", "next"}),
        ("route r { compute prompt[:|] on p }", {"n", "tail", "min"}, {*WORKERS, "calm"}),
        ("route r { compute prompt[:100% - |] on p }", {"n", "tail"}, {*WORKERS, "calm"}),
        ("route r { generate | on d }", {"on", "n"}, {*WORKERS, "calm"}),
        ("let x = argmin(load(w) |", {"for"}, {"where"}),
        ("let x = argmin(| for v in decode)", {"load", "n"}, {"d", "near"}),
        ("let x = argmin(load(v) for v in decode where cached(|", {"v", "d"}, {"n"}),
        ("let x = argmin(load(|", {"w", "d"}, {"n"}),
        ("let x = count(|", {"w", "calm", "load"}, {"near"}),
        ("let x = load(d, |", set(), {"d", "n"}),
        ("let x = prefill_time(|, d)", {"n"}, WORKERS),
        ("let x = prefill_time(n, |)", WORKERS, {"n"}),
        ("let x = sticky(|", {"tenant", "session", "prompt"}, {"n", *WORKERS}),
        ("def f(ws) = mean(load(w) for w in |", {"ws", "decode"}, {"n"}),
        ("def f(a, b) = a + |", {"a", "b", "n"}, {"d"}),
        ("adapt every 5s { tail = tail + |", {"tail", "load", "mean", "late"}, {"n", "tokens", "cached"}),
        ('test "x" { expect |', {"route", "sends", "d", "n", "load"}, {"argmin", "prefill[0]"}),
        ('test "x" { given |', {"d", "tail", "tokens", "load"}, {"last", "min", "next", "late"}),
        ('test "x" { given tokens(prompt) = 4, |', {"d", "load"}, {"last"}),
    ],
)  # fmt: skip
def test_among(between: str, among: set[str], not_among: set[str]) -> None:
    found = labels(between)
    assert found >= among
    assert not found & not_among


def test_every_item_has_what_editors_show_beside_it() -> None:
    found = completed(_ABOVE + "let x = |" + _BELOW).items
    assert all(each.doc or each.detail or each.code for each in found)
    best = item("let x = |", "d")
    assert (best.kind, best.detail, best.doc) == ("binding", "a worker of `decode`", "the calm one")
    assert item("let x = |", "load").detail == "a duration"
    assert item("pool x { |", "host_cache").doc == settings.POOL["host_cache"].doc


def test_the_nearest_names_come_first() -> None:
    found = completed(_ABOVE + "let x = argmin(load(|) for v in decode)" + _BELOW).items
    assert [each.label for each in found][:3] == ["v", "p", "d"]


def test_snippets_have_the_tab_stops_of_what_is_to_be_filled_in() -> None:
    assert item("let x = |", "argmin").snippet == "argmin(${1:load(w)} for w in ${2:prefill})"
    assert item("let x = |", "load").snippet == "load($1)$0"
    assert item("pool x { |", "gpus").snippet == "gpus = $0"
    assert item("pool x { queue = |", "hit_ratio").snippet == "hit_ratio(groups = ${1})"
    assert item('test "t" { given |', "d").snippet == "d = $0"
    assert item('test "t" { given |', "tokens").snippet == "tokens(prompt) = $0"


def test_the_word_at_the_cursor_is_replaced_and_what_follows_it_is_left() -> None:
    text = _ABOVE + "let x = lo|ad(d)" + _BELOW
    found = completed(text)
    assert text[found.span.start : found.span.end] == "lo"
    assert {"load", "d"} <= {each.label for each in found.items}


def test_something_must_follow_only_where_it_must() -> None:
    assert completed(_ABOVE + "route r { generate on |").needed
    assert completed(_ABOVE + "let x = |").needed
    assert not completed(_ABOVE + "let x = n |").needed
    assert not completed(_ABOVE + "route r { generate on d |").needed


def test_a_file_begins_with_its_strategy() -> None:
    for text in ("|", "st|", "# a comment\n|"):
        assert [each.label for each in completed(text).items] == ["strategy"]
    assert completed("strategy |").items == ()
    assert completed('strategy s "|').items == ()


def test_names_of_broken_declarations_are_offered_everywhere() -> None:
    broken = "let half = argmin(\nroute r { generate on |"
    assert "half" in labels(broken)
    assert "half" in labels("let half argmin\nlet x = n + |")


def test_a_name_is_not_offered_in_its_own_value() -> None:
    assert "whole" not in labels("let whole = |")
    assert "whole" in labels("let whole = 5s\nlet other = |")


def test_every_keyword_of_the_grammar_is_described() -> None:
    kinds = [terminal.name for terminal in load_parser().terminals]
    words = {word for kind in kinds if (word := spelling(kind)) and word.isalpha()}
    assert words == set(KEYWORDS)
    assert not set(KEYWORDS) & builtins.NAMES


_WHOLE = (_ABOVE + "adapt every 5s { tail = 5% }" + _BELOW).replace("\n", "\r\n")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_every_place_of_a_text_and_of_its_beginnings_has_an_answer(step: int) -> None:
    """What is offered parses at least as far as what stands there: no answer is an error."""
    for cut in range(step, len(_WHOLE), 7):
        assert complete(Source.from_text(_WHOLE[:cut]), cut) is not None
        strange = _WHOLE[:cut] + '({["}])'[step:] + _WHOLE[cut:]
        complete(Source.from_text(strange), cut)
