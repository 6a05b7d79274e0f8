"""Fixes are applied until nothing is left to fix, never two over each other."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.dsl import fix
from mserve.dsl.check import Checked, check_text
from mserve.dsl.diagnostics import Diagnostic, Edit, Label
from mserve.dsl.fix import apply_edits, fix_source
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span

_BROKEN = """\
strategy bad "all of it can be mended"
pool workers { bach = continous(token = 8192) }   # as is
let w = argmin(laod(x) for x in workrs)
rout near when 1 < tokens(prompt) < 500 { generat on w }
route far { generate on w }
"""
_MENDED = """\
strategy bad "all of it can be mended"
pool workers { batch = continuous(tokens = 8192) }   # as is
let w = argmin(load(x) for x in workers)
route near when 1 < tokens(prompt) and tokens(prompt) < 500 { generate on w }
route far { generate on w }
"""


def _fixed(text: str) -> fix.Fixed:
    return fix_source(Source.from_text(text))


def test_all_that_can_be_fixed_is_fixed() -> None:
    found = _fixed(_BROKEN)
    assert found.checked.source.text == _MENDED
    assert found.checked.diagnostics == ()
    assert len(found.applied) >= 7
    for each in found.applied:
        assert each.diagnostic in check_text(each.source.text).diagnostics


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("route all { generate on y;generate on y }", "route all { generate on y generate on y }"),
        ("pool p;pool d;let y = next(p)", "pool p pool d let y = next(p)"),
        ("let x = 5;  let y = 6;\n", "let x = 5  let y = 6\n"),
        ("let x = `load`(w)", "let x = load(w)"),
    ],
)
def test_what_is_left_out_keeps_words_apart(text: str, mended: str) -> None:
    source = Source.from_text('strategy s "x"\n' + text)
    edits = [edit for each in check_text(source.text).diagnostics for edit in each.fix]
    strange = [edit for edit in edits if source.slice(edit.span) in (";", "`")]
    assert apply_edits(source.text, strange) == 'strategy s "x"\n' + mended


def test_line_ends_stay() -> None:
    assert _fixed(_BROKEN.replace("\n", "\r\n")).checked.source.text == _MENDED.replace(
        "\n", "\r\n"
    )


def test_what_has_no_fix_is_left() -> None:
    text = _MENDED.replace("1 <", "1ms <")
    found = _fixed(text)
    assert found.checked.source.text == text
    assert [each.rule for each in found.checked.diagnostics] == ["unit-mismatch"]
    assert found.applied == ()


def test_bytes_that_are_not_utf8_are_left_alone() -> None:
    source = Source.from_bytes(_BROKEN.encode() + b"# caf\xe9")
    found = fix_source(source)
    assert found.applied == ()
    assert found.checked.source is source


def _diagnostic(*edits: tuple[int, int, str]) -> Diagnostic:
    fixes = tuple(Edit(Span(start, end), text) for start, end, text in edits)
    return Diagnostic("syntax", "m", (Label(fixes[0].span),), fix=fixes)


def _pretend(monkeypatch: pytest.MonkeyPatch, rounds: dict[str, tuple[Diagnostic, ...]]) -> None:
    def check(source: Source) -> Checked:
        return Checked(source, None, rounds.get(source.text, ()))

    monkeypatch.setattr(fix, "check_source", check)


def test_edits_that_touch_wait_for_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    together = (
        _diagnostic((1, 2, "x"), (4, 5, "y")),
        _diagnostic((2, 3, "z")),
        _diagnostic((7, 7, "!")),
    )
    _pretend(monkeypatch, {"abcdefg": together, "axcdyfg!": (_diagnostic((2, 3, "z")),)})
    found = _fixed("abcdefg")
    assert found.checked.source.text == "axzdyfg!"
    assert [each.source.text for each in found.applied] == ["abcdefg", "abcdefg", "axcdyfg!"]


def test_fixes_that_undo_each_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, {"a": (_diagnostic((0, 1, "b")),), "b": (_diagnostic((0, 1, "a")),)})
    assert len(_fixed("a").applied) == 1


def test_fixes_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["x" * length for length in range(100)]
    _pretend(monkeypatch, {text: (_diagnostic((0, 0, "x")),) for text in texts})
    assert len(_fixed("").applied) == fix.MAX_ROUNDS


def test_apply_edits() -> None:
    edits = [Edit(Span(0, 1), "AA"), Edit(Span(2, 2), "-"), Edit(Span(2, 4), "")]
    assert apply_edits("abcde", edits[:1] + edits[2:]) == "AAbe"
    assert apply_edits("abcde", edits[:2]) == "AAb-cde"


SHIPPED = sorted((Path(__file__).parents[2] / "strategies").glob("*.mserve"))


@given(st.sampled_from(SHIPPED), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_semicolons_leave_the_strategy_as_it_was(path: Path, rng: random.Random) -> None:
    """Between lines and behind them, with blanks at their sides and without."""
    lines = path.read_text("utf-8").splitlines()
    ends = [rng.choice((";", "; ", " ;", ";\n", "\n", ";;")) for _ in lines]
    marked = "".join(
        line + ("\n" if "#" in line else end) for line, end in zip(lines, ends, strict=True)
    )
    found = _fixed(marked)
    assert found.checked.strategy == check_text("\n".join(lines)).strategy
