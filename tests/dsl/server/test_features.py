"""What editors ask of a document besides completion: pure functions of a text and a place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.dsl.check import check_text
from mserve.dsl.fix import apply_edits
from mserve.dsl.format import format_source
from mserve.dsl.server.actions import quick_fixes
from mserve.dsl.server.document import Document
from mserve.dsl.server.edits import fix_edits, format_edits, line_edits
from mserve.dsl.server.highlighting import coloured_names
from mserve.dsl.server.hover import hover_at
from mserve.dsl.server.outline import folds, lenses
from mserve.dsl.server.positions import Encoding, Positions
from mserve.dsl.server.rename import CannotRename, renamable_at, rename_at
from mserve.dsl.server.signature import call_at
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span

TEXT = """\
# what editors
# show
strategy shown "what 😀 editors show"
param tail = 10% in 0%..90%   # share of the decode worker
pool prefill
pool decode { queue = hit_ratio(groups = 10) }
let p = argmin(load(w) for w in prefill)
let d = argmin(late(v, 50ms) for v in decode)
def late(w, extra) = load(w) + extra
route near when cached(d) > 64 and max_tokens > 5 { generate on d }
route far {
  compute prompt[:100% - tail] on p
  generate on d
}
test "far \\"off\\"" {
  given tokens(prompt) = 5
  expect route far
}
"""


def document(text: str = TEXT) -> Document:
    return Document("file:///s.mserve", 1, text)


def at(context: str, text: str = TEXT) -> int:
    before, after = context.split("|")
    assert text.count(before + after) == 1, "a context stands in the text once"
    return text.index(before + after) + len(before)


# --- positions -------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 26), ("utf-16", 24), ("utf-32", 23)])
def test_code_units_are_what_client_and_server_agreed_on(encoding: str, column: int) -> None:
    positions = Positions(document().source, Encoding(encoding))
    offset = at("😀 |editors show")
    assert positions.at(offset) == (2, column)
    assert positions.offset(2, column) == offset


@settings(deadline=None)
@given(
    st.text(alphabet="a€😀\ud800 \n\r\f\u2028", max_size=30), st.sampled_from(Encoding), st.data()
)
def test_every_place_survives_the_way_to_the_client_and_back(
    text: str, encoding: Encoding, data: st.DataObject
) -> None:
    source = Source.from_text(text)
    positions = Positions(source, encoding)
    offset = data.draw(st.integers(0, len(text)))
    back = positions.offset(*positions.at(offset))
    between_line_end = text[offset - 1 : offset + 1] == "\r\n" and offset > 0
    assert back == (offset - 1 if between_line_end else offset)


def test_places_behind_an_end_are_the_end() -> None:
    positions = Positions(Source.from_text("ab\ncd"), Encoding.UTF16)
    assert positions.offset(0, 99) == 2
    assert positions.offset(99, 0) == 5


def test_a_byte_order_mark_is_a_unit_of_the_first_line_only() -> None:
    marked = document("\ufeffstrategy\nx")
    positions = Positions(marked.source, Encoding.UTF16, has_mark=marked.has_mark)
    assert positions.at(0) == (0, 1)
    assert positions.offset(0, 1) == 0
    assert positions.at(9) == (1, 0)


# --- hover -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("generate on |d }", ["let d = argmin(", "a worker of `decode`"]),
        ("= argmin(l|oad(w) for", ["load(WORKER)", "a duration", "not done"]),
        ("(gro|ups = 10", ["groups = ...", "number of groups"]),
        ("100% - |tail", ["param tail", "a ratio", "share of the decode worker"]),
        ("rou|te near", ["route NAME when COND", "the first whose condition holds"]),
        ("late(v, 5|0ms)", ["a duration: 0.05 s"]),
        ("> 6|4 and", ["a bare number"]),
        ("in 0%..9|0%", ["a ratio: 0.9"]),
        ("compute pro|mpt[", ["bounds are counts of tokens or ratios"]),
    ],
)
def test_hover(context: str, expected: list[str]) -> None:
    shown = hover_at(document(), at(context))
    assert shown is not None
    for words in expected:
        assert words in shown.markdown


@pytest.mark.parametrize("context", ["# sh|ow", 'shown "wh|at', "route far |{"])
def test_nothing_to_say(context: str) -> None:
    assert hover_at(document(), at(context)) is None


# --- rename ----------------------------------------------------------------------------------


def renamed(context: str, name: str, text: str = TEXT) -> str:
    for span in sorted(
        rename_at(document(text), at(context, text), name), key=lambda each: -each.start
    ):
        text = text[: span.start] + name + text[span.end :]
    return text


@pytest.mark.parametrize(
    ("context", "name"),
    [
        ("let |d =", "dd"),
        ("on |p\n", "fast"),
        ("- |tail]", "share"),
        ("route |far {", "load"),  # routes have a namespace of their own
        ("pool |decode", "gpus"),
        ("late(|w, extra) =", "v"),  # another declaration's variable
        ("strategy |shown", "near"),
        ("def |late", "later"),
        ("let |d =", "d"),
    ],
)
def test_a_rename_keeps_the_meaning(context: str, name: str) -> None:
    assert check_text(renamed(context, name)).diagnostics == check_text(TEXT).diagnostics
    assert check_text(renamed(context, name)).strategy is not None


@pytest.mark.parametrize(
    ("context", "name", "reason"),
    [
        ("let |d =", "1d", "`1d` is not a name"),
        ("let |d =", "", "`` is not a name"),
        ("let |d =", "on", "`on` is a keyword"),
        ("let |d =", "load", "`load` is part of the language"),
        ("let |d =", "tail", "There is a param `tail` already"),
        ("let |d =", "v", "There is a variable `v` already"),
        ("let |d =", "extra", "There is a parameter `extra` already"),
        ("late(|w, extra) =", "extra", "There is a parameter `extra` already"),
        ("late(|w, extra) =", "p", "There is a binding `p` already"),
        ("route |far {", "near", "There is a route `near` already"),
        ("= argmin(l|oad(w)", "x", "`load` is part of the language"),
        ("que|ue =", "x", "`queue` is part of the language"),
        ("gene|rate on d }", "x", "There is no name here"),
        ("# what e|ditors", "x", "There is no name here"),
    ],
)
def test_a_rename_that_would_change_the_meaning_is_refused(
    context: str, name: str, reason: str
) -> None:
    with pytest.raises(CannotRename, match=reason.replace("(", r"\(")):
        rename_at(document(), at(context), name)


def test_nothing_is_renamed_while_parts_cannot_be_read() -> None:
    broken = TEXT.replace("generate on d\n", "generate d\n")
    with pytest.raises(CannotRename, match="cannot be read"):
        renamable_at(document(broken), at("let |d =", broken))
    assert renamable_at(document(), at("let |d =")) == Span(at("let |d ="), at("let d| ="))


# --- edits -----------------------------------------------------------------------------------


def test_formatting_changes_only_what_differs() -> None:
    text = TEXT.replace("let p = argmin", "let p =   argmin")
    (edit,) = format_edits(document(text))
    assert (text[edit.span.start : edit.span.end], edit.text) == ("  ", "")
    assert format_edits(document()) == ()


def test_formatting_keeps_line_ends_and_leaves_mistakes_alone() -> None:
    text = TEXT.replace("let p = ", "let p =\t").replace("\n", "\r\n")
    assert apply_edits(text, format_edits(document(text))) == TEXT.replace("\n", "\r\n")
    assert format_edits(document("let let let")) == ()


@settings(deadline=None)
@given(st.text("ab\n\r", max_size=20), st.text("ab\n\r", max_size=20))
def test_line_edits_lead_from_one_text_to_the_other(before: str, after: str) -> None:
    assert apply_edits(before, line_edits(before, after)) == after


def test_a_quick_fix_mends_its_own_problem_and_fix_all_all() -> None:
    text = TEXT.replace("max_tokens", "max_token").replace("v in decode", "v in decod")
    found = document(text)
    place = at("and max_|token", text)
    (fix,) = quick_fixes(found, Span(place, place))
    assert fix.title == "Replace max_token by max_tokens"
    assert "max_tokens > 5" in apply_edits(text, fix.edits)
    assert apply_edits(text, fix_edits(found)) == TEXT
    assert not list(quick_fixes(document(), Span(0, len(TEXT))))


# --- the whole file --------------------------------------------------------------------------


def test_lenses_stand_above_what_they_are_about_also_when_it_is_broken() -> None:
    expected = [
        ("plan", None),
        ("run all tests", None),
        ("plan", "near"),
        ("plan", "far"),
        ("run test", 'far "off"'),
    ]
    for text in (TEXT, TEXT.replace("generate on d\n", "generate\n")):
        assert [(each.title, each.subject) for each in lenses(document(text))] == expected
    unfinished = 'strategy s "t"\ntest "not clos\nroute'
    assert [each.title for each in lenses(document(unfinished))] == ["plan", "run all tests"]


def test_blocks_and_comments_of_several_lines_fold() -> None:
    found = [(each.first, each.last, each.is_comment) for each in folds(document())]
    assert found == [(10, 12, False), (14, 16, False), (0, 1, True)]


def test_names_are_coloured_by_what_they_mean() -> None:
    found = {
        (TEXT[each.span.start : each.span.end], each.kind, *each.marks)
        for each in coloured_names(document())
    }
    assert found >= {
        ("shown", "namespace", "declaration"),
        ("tail", "parameter", "declaration"),
        ("tail", "parameter"),
        ("decode", "class"),
        ("load", "function", "defaultLibrary"),
        ("late", "function", "declaration"),
        ("hit_ratio", "enumMember"),
        ("groups", "property"),
        ("far", "label"),
    }


@pytest.mark.parametrize(
    ("line", "label", "active"),
    [
        ("let x = prefill_time(|", "prefill_time(COUNT, WORKER)", 0),
        ("let x = prefill_time(5, |", "prefill_time(COUNT, WORKER)", 1),
        ("let x = prefill_time(5, load(d) + |", "prefill_time(COUNT, WORKER)", 1),
        ("let x = prefill_time(max(1, 2), |", "prefill_time(COUNT, WORKER)", 1),
        ("let x = late(d, |", "late(w, extra)", 1),
        ("let x = argmin(load(w) for w in |", "argmin(NUMBER for w in POOL where COND)", 0),
        ("let x = min(load(w) for w in |", "min(NUMBER for w in POOL where COND)", 0),
        ("let x = min(|", "min(NUMBER, NUMBER, ...)", 0),
    ],
)
def test_what_a_call_takes(line: str, label: str, active: int) -> None:
    text = f"{TEXT}{line}"
    call = call_at(document(text.replace("|", "")), text.index("|"))
    assert call is not None
    assert (call.signatures[0].label, call.active) == (label, active)
    assert all(each in label for each in call.signatures[0].parameters)


@pytest.mark.parametrize(
    "line", ["let x = |", "let x = (|", "def f(|", "# load(|", "let x = nothing(|"]
)
def test_no_call_is_nothing(line: str) -> None:
    text = f"{TEXT}{line}"
    assert call_at(document(text.replace("|", "")), text.index("|")) is None


@pytest.mark.parametrize("cut", range(0, len(TEXT), 11))
def test_every_question_has_an_answer_about_every_cut_text(cut: int) -> None:
    found = document(TEXT[:cut] + "\x00" * (cut % 2))
    list(lenses(found)), list(folds(found)), list(coloured_names(found))
    list(quick_fixes(found, Span(0, cut)))
    apply_edits(found.source.text, fix_edits(found))
    apply_edits(found.source.text, format_edits(found))
    for offset in range(0, cut + 1, 13):
        hover_at(found, offset)
        call_at(found, offset)
        try:
            rename_at(found, offset, "other")
        except CannotRename:
            continue
    formatted = format_source(found.source).text
    assert formatted is None or apply_edits(found.source.text, format_edits(found)) == formatted
