"""The literate specification: every ```mserve block of tests/spec gives exactly its ```diagnostics.

An expected line is `LINE:COLUMN rule-id`; a block without a ```diagnostics block after it is clean.
A ```full block holds the whole text of the long format. A strategy that does not begin with
`strategy` is a fragment: the lines of `_PRELUDE` stand in front of it and are not counted.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from mserve.dsl.check import check_text
from mserve.dsl.render import render_all
from mserve.dsl.rules import RULES

_FOLDER = Path(__file__).parents[1] / "spec"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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
        elif kind == "diagnostics":
            found[-1] = Example(found[-1].place, found[-1].text, body, found[-1].full)
        else:
            assert kind == "full", f"{path.name}:{line}: unknown kind of block: {kind}"
            found[-1] = Example(found[-1].place, found[-1].text, found[-1].expected, body)
    return found


_EXAMPLES = _examples()


def _check(example: Example) -> list[str]:
    before = _PRELUDE if example.is_fragment else ""
    after = _ENDING if example.is_fragment else ""
    checked = check_text(before + example.text + after, "example.mserve")
    found = []
    for diagnostic in checked.diagnostics:
        position = checked.source.position(diagnostic.span.start)
        line = position.line - before.count("\n")
        found.append(f"{line}:{position.column} {diagnostic.rule}")
    return found


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda example: example.place)
def test_block_gives_exactly_its_diagnostics(example: Example) -> None:
    assert _check(example) == example.expected.splitlines()


@pytest.mark.parametrize(
    "example", [each for each in _EXAMPLES if each.full], ids=lambda example: example.place
)
def test_block_is_shown_as_written(example: Example) -> None:
    checked = check_text(example.text, "example.mserve")
    assert render_all([(checked.source, checked.diagnostics)]) == example.full + "\n"


def test_every_rule_has_a_broken_and_a_clean_block() -> None:
    expected = {line.split()[1] for each in _EXAMPLES for line in each.expected.splitlines()}
    assert expected == set(RULES)
    assert sum(1 for each in _EXAMPLES if not each.expected) >= 10
    assert sum(1 for each in _EXAMPLES if each.expected) >= 30
