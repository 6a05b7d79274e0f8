"""No input crashes the front end: what is not a strategy gives diagnostics, in bounded time and memory.

`MSERVE_FUZZ=20` tries twenty times as many inputs.
"""

import os
import random
import re
import resource
import time
from collections.abc import Callable
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.dsl.check import Checked, check_bytes, check_source, check_text
from mserve.dsl.fix import fix_source
from mserve.dsl.format import format_source
from mserve.dsl.lalr import Scanner, Token
from mserve.dsl.navigation import Navigation
from mserve.dsl.render import FORMATS, render
from mserve.dsl.source import Source

_TIMES = int(os.environ.get("MSERVE_FUZZ", "1"))
_MAX_S = 2.0
_MAX_KIB = 600 * 1024  # of the whole process, tests and their libraries included
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
    formatted = format_source(checked.source)
    if formatted.text is None:
        assert formatted.diagnostics
    else:
        assert format_source(Source.from_text(formatted.text)).text == formatted.text
    navigation = Navigation(checked.source)
    for offset in range(0, length, max(1, length // 10)):
        navigation.describe(offset)
        navigation.references(offset)
    fixed = fix_source(checked.source).checked
    assert fixed == check_source(fixed.source)


@settings(max_examples=60 * _TIMES, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    _assert_sane(check_bytes(data))


@settings(max_examples=60 * _TIMES, deadline=None, database=None, derandomize=True)
@given(st.lists(st.sampled_from([*_WORDS, *_ODD]), max_size=60))
def test_random_words(words: list[str]) -> None:
    _assert_sane(check_text('strategy a "b"\n' + " ".join(words)))


@pytest.mark.parametrize("seed", range(60 * _TIMES))
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


@pytest.mark.parametrize("name", ["drop", "double", "swap"])
@pytest.mark.parametrize("text", _SHIPPED, ids=range(len(_SHIPPED)))
def test_each_shipped_strategy_with_one_token_changed(text: str, name: str) -> None:
    """At every third token; all of them in a longer run."""
    tokens: list[Token] = []
    Scanner(text).read_into(tokens)
    words = [str(token) for token in tokens]
    for place in range(len(text) % 17, len(words) - 1, max(1, 17 // _TIMES)):
        changed = words.copy()
        if name == "drop":
            del changed[place]
        elif name == "double":
            changed.insert(place, changed[place])
        else:
            changed[place], changed[place + 1] = changed[place + 1], changed[place]
        checked = check_text(" ".join(changed))
        assert (checked.strategy is None) == any(
            each.severity == "error" for each in checked.diagnostics
        )


_MEGABYTE = 1_000_000
_HUGE: dict[str, Callable[[int], str]] = {
    "comment": lambda size: "#" + "x" * size,
    "text": lambda size: f'let a = "{"x" * size}"',
    "unclosed": lambda size: 'let a = "' + "x" * size,
    "name": lambda size: f"let {'x' * size} = 5",
    "digits": lambda size: "let a = " + "9" * size,
    "words": lambda size: "word " * (size // 5),
    "lets": lambda size: "let a = 5 " * (size // 10),
    "sum": lambda size: "let a = 1" + " + 1" * (size // 4),
    "arguments": lambda size: f"let a = max({'5, ' * (size // 3)}5)",
    "parentheses": lambda size: "let a = " + "(" * size,
    "braces": lambda size: "{" * size,
    "signs": lambda size: "let a = " + "-" * size,
    "semicolons": lambda size: ";" * size,
    "quotes": lambda size: "'" * size,
    "blanks": lambda size: " " * size,
    "steps": lambda size: f"route a {{ {'generate d ' * (size // 11)} }}",
    "percents": lambda size: "let a = 5 " + "% " * (size // 2),
    "nul": lambda size: "\0" * size,
}


@pytest.mark.parametrize("kind", sorted(_HUGE))
def test_a_line_of_a_megabyte(kind: str) -> None:
    _assert_bounded(f'strategy a "b"\n{_HUGE[kind](_MEGABYTE)}')


@pytest.mark.parametrize("kind", sorted(_HUGE))
def test_a_line_that_is_just_not_too_long(kind: str) -> None:
    _assert_bounded(f'strategy a "b"\n{_HUGE[kind](9_900)}')


@pytest.mark.parametrize(
    "line", ["let x{} = laod(y{})", "route r{} {{ generate on w }}", "pool p{}", "a{}"]
)
def test_many_lines_of_mistakes(line: str) -> None:
    lines = (line.format(number, number) for number in range(1_000))
    _assert_bounded("\n".join(['strategy a "b"', *lines]))


def test_a_text_of_three_megabytes_is_refused() -> None:
    _assert_bounded('strategy a "b"\n' + "let a = 5\n" * 300_000)


def _assert_bounded(text: str) -> None:
    begin = time.process_time()
    checked = check_text(text)
    shown = render(checked.source, checked.diagnostics)
    assert time.process_time() - begin < _MAX_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < _MAX_KIB
    assert len(shown) < 15_000 * max(1, len(checked.diagnostics))


@pytest.mark.parametrize("seed", range(20 * _TIMES))
def test_truncated_strategies(seed: int) -> None:
    generator = random.Random(seed)
    text = generator.choice(_SHIPPED)
    _assert_sane(check_text(text[: generator.randrange(len(text))]))
    _assert_sane(check_text(text[generator.randrange(len(text)) :]))


@pytest.mark.parametrize("text", _SHIPPED)
def test_shipped_strategies_are_clean(text: str) -> None:
    assert check_text(text).diagnostics == ()
