"""Every rule is documented in one form, and its documentation is true."""

import re
import textwrap
from pathlib import Path

import pytest

from mserve.dsl.check import check_text
from mserve.dsl.rules import RULES, page_of
from mserve.dsl.rules.document import rules_document

_PAGE = re.compile(
    r".+\.\n\nWhat it does: .+?\n\nWhy it is wrong: .+?\n\n"
    r"Example:\n\n(?P<example>(    .*\n|\n)+)Use instead:\n\n(?P<instead>(    .*(\n|$)|\n)+)$",
    re.DOTALL,
)
_PRELUDE = {
    "pool": "pool {name}",
    "let": "let {name} = argmin(queued(v) for v in workers)",
    "param": "param {name} = 10% in 0%..90%",
}
_NAMES = {
    **dict.fromkeys(("workers", "prefill", "decode"), "pool"),
    **dict.fromkeys(("d", "p", "q", "spare"), "let"),
    "tail": "param",
}
_MARK = "# the fragment"
_STEPS = ("compute", "generate", "reuse")
_TEST_LINES = ("given", "cluster")


def _page(rule: str) -> re.Match[str]:
    match = _PAGE.fullmatch(page_of(rule))
    assert match is not None, f"the page of {rule} is not in the common form"
    return match


def _strategy_around(fragment: str) -> str:
    """A whole strategy that uses a fragment: declarations, steps or lines of a test."""
    if fragment.startswith(_STEPS):
        fragment = f"route shown when tokens(prompt) > 5 {{\n{fragment}}}\n"
        if "generate" not in fragment:
            fragment = fragment.replace("\n}", "\ngenerate on d\n}")
    if fragment.startswith(_TEST_LINES):
        fragment = f'test "shown" {{\n{fragment}}}\n'
    declared = set(re.findall(r"(?:pool|let|param|def|route) (\w+)", fragment))
    before = [
        _PRELUDE[kind].format(name=name) for name, kind in _NAMES.items() if name not in declared
    ]
    if not re.search(r"^route all", fragment, re.MULTILINE):
        fragment += "route last { generate on next(workers) }\n"
    return "\n".join(['strategy example "of a rule"', *before, _MARK, fragment])


def _rules_broken_by(fragment: str) -> set[str]:
    text = _strategy_around(textwrap.dedent(fragment))
    begin = text.index(_MARK)
    found = check_text(text).diagnostics
    return {diagnostic.rule for diagnostic in found if diagnostic.span.start > begin}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_page_has_the_common_form(rule: str) -> None:
    _page(rule)


# `no-fallback-route` is about what the surrounding strategy ends with, the example of
# `too-expensive` goes on in words: tests/spec has whole strategies for both.
@pytest.mark.parametrize("rule", sorted(RULES.keys() - {"no-fallback-route", "too-expensive"}))
def test_example_breaks_the_rule_and_its_replacement_does_not(rule: str) -> None:
    page = _page(rule)
    assert rule in _rules_broken_by(page["example"])
    assert rule not in _rules_broken_by(page["instead"])


def test_the_document_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs" / "rules.md"
    command = "python -m mserve.dsl.rules > docs/rules.md"
    assert path.read_text("utf-8") == rules_document(), f"run: {command}"
