"""What editors ask about a place: the answers are the same however the text is laid out."""

import pytest

from mserve.dsl.check import check_text
from mserve.dsl.navigation import Hover, Navigation
from mserve.dsl.source import Source

_TEXT = """\
strategy shown "what editors show"
# how much the decode worker computes
param tail = 10% in 0%..90%
pool prefill { queue = hit_ratio(groups = 10)  prefetch = peer(decode) }
pool decode
let p = argmin(load(w) for w in prefill)
let d = argmin(late(w, 1s) for w in [v for v in (decode) where queued(v) < 3])   # the calm one
def late(w, extra) = load(w) + extra
route near when ttft( (near) ) < ttft(far) and max_tokens > 5 { generate on d }
route far {
  compute prompt[:100% - tail] on p
  generate on (d)
}
adapt every 5s { tail = 20% }
slo { ttft = 500ms }
test "far" {
  cluster decode = 2
  given tokens(prompt) = 5, load(decode[1]) = 1s
  expect route far
  expect d = decode[0]
}
"""
_NAVIGATION = Navigation(Source.from_text(_TEXT))


def _at(context: str) -> int:
    """The offset that a `|` marks in a piece of the text."""
    before, after = context.split("|")
    assert _TEXT.count(before + after) == 1, "a context stands in the text once"
    return _TEXT.index(before + after) + len(before)


def _hover(context: str) -> Hover:
    found = _NAVIGATION.describe(_at(context))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("context", "kind", "name", "type_", "doc"),
    [
        ("strategy sh|own", "strategy", "shown", "", "what editors show"),
        ("100% - t|ail", "param", "tail", "a ratio", "how much the decode worker computes"),
        ("w in pre|fill)", "pool", "prefill", "", ""),
        ("generate on (d|)", "binding", "d", "a worker of `decode`", "the calm one"),
        ("argmin(l|oad(w) for w in pre", "observation", "load", "a duration", None),
        ("= |argmin(load", "choice", "argmin", "a worker", None),
        ("argmin(load(|w) for", "variable", "w", "a worker of `prefill`", None),
        ("queued(|v)", "variable", "v", "a worker of `decode`", None),
        ("+ ex|tra", "parameter", "extra", "", "a parameter of `late`"),
        ("argmin(la|te(w, 1s)", "definition", "late", "", ""),
        ("ttft(f|ar)", "route", "far", "", ""),
        ("and max|_tokens", "observation", "max_tokens", "a count", None),
        ("{ que|ue =", "setting", "queue", "", "which waiting request goes first"),
        ("= hit_|ratio", "word", "hit_ratio", "", None),
        ("(grou|ps = 10", "setting", "groups", "a count", "number of groups"),
        ("peer(dec|ode)", "pool", "decode", "", ""),
        ("slo { tt|ft", "setting", "ttft", "a duration", "goal for the time to first token"),
        ("given tok|ens(", "observation", "tokens", "a count", "length of the prompt"),
    ],
)
def test_hover(context: str, kind: str, name: str, type_: str, doc: str | None) -> None:
    found = _hover(context)
    assert (found.meaning.kind, found.meaning.name, found.meaning.type) == (kind, name, type_)
    assert _NAVIGATION.describe(found.span.start) == found
    assert _TEXT[found.span.start : found.span.end] == name
    assert found.meaning.doc == doc or (doc is None and found.meaning.doc)


def test_hover_shows_how_a_name_is_written() -> None:
    assert _hover("lo|ad(decode[1]").meaning.code == "load(WORKER)"
    assert _hover("param t|ail").meaning.code == "param tail = 10% in 0%..90%"
    assert _hover("= |argmin(load").meaning.code == "argmin(NUMBER for w in POOL where COND)"
    assert _hover("def la|te").meaning.code == "def late(w, extra) = load(w) + extra"
    assert _hover("route fa|r {").meaning.code == "route far"


@pytest.mark.parametrize("context", ["stra|tegy sh", "500m|s }", "prompt[:100|%", "# how m|uch"])
def test_no_name_is_nothing(context: str) -> None:
    assert _NAVIGATION.describe(_at(context)) is None


@pytest.mark.parametrize(
    ("context", "times"),
    [
        ("let |d =", 4),
        ("let |p =", 2),
        ("100% - |tail", 3),
        ("pool |decode", 6),
        ("route |far {", 3),
        ("def |late", 2),
        ("[|v for", 3),
        ("argmin(late(|w", 2),
        ("def late(|w", 2),
        ("argmin(load(|w", 2),
    ],
)
def test_references_include_the_declaration(context: str, times: int) -> None:
    offset = _at(context)
    found = _NAVIGATION.references(offset)
    assert len(found) == times
    declared = _NAVIGATION.definition(offset)
    assert declared in found
    for span in found:
        assert _NAVIGATION.definition(span.start) == declared
        assert _NAVIGATION.references(span.start) == found


def test_renaming_all_references_keeps_the_meaning() -> None:
    """Every reference is found, so a rename everywhere leaves a clean strategy."""
    for name in ("d", "p", "tail", "decode", "prefill", "late", "far", "near", "extra"):
        navigation = Navigation(Source.from_text(_TEXT))
        starts = {s.start for s in navigation.references(_declared_at(name))}
        renamed = _TEXT
        for start in sorted(starts, reverse=True):
            renamed = renamed[:start] + "renamed" + renamed[start + len(name) :]
        assert check_text(renamed).diagnostics == check_text(_TEXT).diagnostics == ()


def _declared_at(name: str) -> int:
    declared = {each.name: each.name_span.start for each in _NAVIGATION.symbols()}
    return declared.get(name, _TEXT.index(f", {name})") + 2 if name == "extra" else 0)


def test_built_ins_are_declared_nowhere() -> None:
    offset = _at("argmin(l|oad(w) for w in pre")
    assert _NAVIGATION.definition(offset) is None
    assert len(_NAVIGATION.references(offset)) == 3


def test_symbols_are_the_outline() -> None:
    found = [(each.kind, each.name, each.detail) for each in _NAVIGATION.symbols()]
    assert found == [
        ("param", "tail", "a ratio"),
        ("pool", "prefill", ""),
        ("pool", "decode", ""),
        ("binding", "p", "a worker of `prefill`"),
        ("binding", "d", "a worker of `decode`"),
        ("definition", "late", ""),
        ("route", "near", "when ttft( (near) ) < ttft(far) and max_tokens > 5"),
        ("route", "far", ""),
        ("adapt", "adapt", ""),
        ("slo", "slo", ""),
        ("test", "far", ""),
    ]
    for each in _NAVIGATION.symbols():
        assert each.span.start <= each.name_span.start < each.name_span.end <= each.span.end


def test_a_text_with_mistakes_has_answers_too() -> None:
    text = (
        'strategy s "t"\npool workers\nlet d = next(workers)\nlet broken argmin\n'
        "let a = a + nothing\nroute r when broken > laod(d) { generate on d }\nroute q {"
    )
    assert check_text(text).strategy is None
    navigation = Navigation(Source.from_text(text))
    use = text.index("on d") + 3
    assert navigation.definition(use) is not None
    assert navigation.references(use)[0].start == text.index("d = next")
    assert navigation.describe(text.index("broken >")) is None
    assert [each.name for each in navigation.symbols()] == ["workers", "d", "a", "r"]


@pytest.mark.parametrize("cut", range(0, len(_TEXT), 7))
def test_every_place_of_every_cut_text_has_an_answer_or_none(cut: int) -> None:
    navigation = Navigation(Source.from_text(_TEXT[:cut]))
    for offset in range(0, cut + 1, 5):
        navigation.describe(offset)
        navigation.references(offset)
    assert len(navigation.symbols()) <= 11
