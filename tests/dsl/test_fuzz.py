"""No input crashes the front end: what is not a strategy gives diagnostics."""

import random
import re
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.dsl.check import Checked, check_bytes, check_text
from mserve.dsl.lalr import Scanner, Token
from mserve.dsl.render import FORMATS, render

_SHIPPED = [
    path.read_text("utf-8")
    for path in files("mserve.strategies").iterdir()
    if path.name.endswith(".mserve")
]
_WORDS = sorted({word for text in _SHIPPED for word in re.findall(r"\w+%?|[^\w\s]", text)})
_ODD = [*"(){}[]\"#.%:=<>-+*/\\\r\n\t\0'", "..", "5sec", "λ", "1e9", "999999999999999999999h", "0"]


def _assert_sane(checked: Checked) -> None:
    """Either a strategy or an error; every diagnostic stands in the text and can be shown."""
    length = len(checked.source.text)
    errors = [each for each in checked.diagnostics if each.severity == "error"]
    assert (checked.strategy is None) == bool(errors)
    for diagnostic in checked.diagnostics:
        for label in diagnostic.labels:
            assert 0 <= label.span.start <= label.span.end <= length
    for style in FORMATS:
        render(checked.source, checked.diagnostics, style)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    _assert_sane(check_bytes(data))


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(st.sampled_from([*_WORDS, *_ODD]), max_size=60))
def test_random_words(words: list[str]) -> None:
    _assert_sane(check_text('strategy a "b"\n' + " ".join(words)))


@pytest.mark.parametrize("seed", range(150))
def test_mutated_strategies(seed: int) -> None:
    """Tokens of shipped strategies are dropped, doubled, swapped and replaced."""
    generator = random.Random(seed)
    tokens: list[Token] = []
    Scanner(generator.choice(_SHIPPED)).read_into(tokens)
    words = [str(token) for token in tokens]
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(words))
        other = generator.randrange(len(words))
        mutation = generator.choice(["drop", "double", "swap", "replace"])
        if mutation == "drop":
            del words[place]
        elif mutation == "double":
            words.insert(place, words[place])
        elif mutation == "swap":
            words[place], words[other] = words[other], words[place]
        else:
            words[place] = generator.choice([*_WORDS, *_ODD])
    _assert_sane(check_text(" ".join(words)))


@pytest.mark.parametrize("seed", range(30))
def test_truncated_strategies(seed: int) -> None:
    generator = random.Random(seed)
    text = generator.choice(_SHIPPED)
    _assert_sane(check_text(text[: generator.randrange(len(text))]))
    _assert_sane(check_text(text[generator.randrange(len(text)) :]))


@pytest.mark.parametrize("text", _SHIPPED)
def test_shipped_strategies_are_clean(text: str) -> None:
    assert check_text(text).diagnostics == ()
