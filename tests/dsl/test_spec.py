"""The literate specification: every ```mserve block of tests/spec gives exactly its ```diagnostics.

An expected line is `LINE:COLUMN rule-id`; a block without a ```diagnostics block after it is clean.
A ```full block holds the whole text of the long format, a ```says block each message as
`LINE:COLUMN-END rule-id: message` with its label and help below. A strategy that does not begin with
`strategy` is a fragment: the lines of `_PRELUDE` stand in front of it and are not counted.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mserve.dsl.check import Checked, check_text
from mserve.dsl.fix import apply_edits
from mserve.dsl.render import render_all
from mserve.dsl.rules import RULES

_FOLDER = Path(__file__).parents[1] / "spec"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACE = re.compile(r"(\d+:\d+)-\d+ ([\w-]+): ")
_PRELUDE = """\
strategy fragment "a part of a strategy; everything declared here is used"
pool prefill
pool decode
let p = argmin(load(w) for w in prefill)
let d = argmin(load(w) for w in decode)
route by_hand when session == "prelude" { compute prompt[:1] on p  generate on d }
"""
_ENDING = "\nroute prelude_fallback { generate on d }\n"


@dataclass(frozen=True)
class Example:
    place: str
    text: str
    expected: str = ""
    full: str = ""
    says: str = ""

    @property
    def is_fragment(self) -> bool:
        return not self.text.startswith("strategy")


def _examples() -> list[Example]:
    return [example for path in sorted(_FOLDER.glob("*.md")) for example in _examples_of(path)]


def _examples_of(path: Path) -> list[Example]:
    text = path.read_text("utf-8")
    found: list[Example] = []
    for match in _BLOCK.finditer(text):
        kind, body = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        if kind == "mserve":
            found.append(Example(f"{path.stem}:{line}", body))
            continue
        field = {"diagnostics": "expected", "full": "full", "says": "says"}[kind]
        found[-1] = replace(found[-1], **{field: body})
        if kind == "says":
            places = (_PLACE.match(said) for said in body.splitlines())
            listed = (f"{place[1]} {place[2]}\n" for place in places if place)
            found[-1] = replace(found[-1], expected="".join(listed))
    return found


_EXAMPLES = _examples()


def _checked(example: Example) -> tuple[Checked, int]:
    """The result, and how many lines stand in front of the example's."""
    before = _PRELUDE if example.is_fragment else ""
    after = _ENDING if example.is_fragment else ""
    return check_text(before + example.text + after, "example.mserve"), before.count("\n")


def _places(example: Example) -> list[str]:
    checked, before = _checked(example)
    positions = (checked.source.position(each.span.start) for each in checked.diagnostics)
    return [
        f"{position.line - before}:{position.column} {diagnostic.rule}"
        for position, diagnostic in zip(positions, checked.diagnostics, strict=True)
    ]


def _said(example: Example) -> str:
    checked, before = _checked(example)
    lines = []
    for each in checked.diagnostics:
        start = checked.source.position(each.span.start)
        end = start.column + each.span.end - each.span.start - 1
        lines.append(f"{start.line - before}:{start.column}-{end} {each.rule}: {each.message}")
        lines += [f"    {text}" for text in (each.labels[0].text, each.help) if text]
        if each.fix:
            mended = apply_edits(checked.source.text, each.fix).splitlines()
            lines.append(f"    fixed: {mended[start.line - 1].strip()}")
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda example: example.place)
def test_block_gives_exactly_its_diagnostics(example: Example) -> None:
    assert _places(example) == example.expected.splitlines()


@pytest.mark.parametrize(
    "example", [each for each in _EXAMPLES if each.full], ids=lambda example: example.place
)
def test_block_is_shown_as_written(example: Example) -> None:
    checked = check_text(example.text, "example.mserve")
    assert render_all([(checked.source, checked.diagnostics)]) == example.full + "\n"


@pytest.mark.parametrize(
    "example", [each for each in _EXAMPLES if each.says], ids=lambda example: example.place
)
def test_block_says_what_is_written(example: Example) -> None:
    assert _said(example) == example.says


def test_every_rule_has_a_broken_and_a_clean_block() -> None:
    expected = {line.split()[1] for each in _EXAMPLES for line in each.expected.splitlines()}
    assert expected == set(RULES)
    assert sum(1 for each in _EXAMPLES if not each.expected) >= 10
    assert sum(1 for each in _EXAMPLES if each.expected) >= 60
