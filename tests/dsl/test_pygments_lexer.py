"""The Pygments lexer reads what the language reads, and says of every word what the language says."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from pygments.token import (
    Comment,
    Error,
    Keyword,
    Name,
    Number,
    Operator,
    String,
    Whitespace,
    _TokenType,
    is_token_subtype,
)

from mserve.dsl import builtins, settings
from mserve.dsl.lalr import spelling
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.pygments_lexer import MserveLexer
from mserve.dsl.source import Source
from mserve.dsl.tables import load_parser
from mserve.dsl.tokens import tokenize

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```mserve\b[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SHIPPED = {path.stem: path.read_text("utf-8") for path in sorted(ROOT.glob("strategies/*.mserve"))}
SHOWN = {
    f"{page.stem}:{number}": text
    for page in _PAGES
    for number, text in enumerate(_BLOCK.findall(page.read_text("utf-8")))
}
KEYWORDS = sorted(
    word for each in load_parser().terminals if (word := spelling(each.name)) and word.isalpha()
)
BLOCKS = {"pool p": settings.POOL, "slo": settings.SLO, "limits": settings.LIMITS}

Kinds = list[tuple[_TokenType, str]]


def kinds(text: str) -> Kinds:
    """All tokens; the lexer is told to leave the text as it is."""
    return list(MserveLexer(stripnl=False, ensurenl=False).get_tokens(text))


def words(text: str) -> Kinds:
    """Without blank space and comments."""
    return [each for each in kinds(text) if each[0] not in (Whitespace, Comment.Single)]


def kind_of(word: str, text: str) -> _TokenType:
    """Of the last place of `word` in the text."""
    return [kind for kind, characters in kinds(text) if characters == word][-1]


@pytest.mark.parametrize("text", [*SHIPPED.values(), *SHOWN.values()], ids=[*SHIPPED, *SHOWN])
def test_it_reads_what_the_language_reads(text: str) -> None:
    found = kinds(text)
    assert "".join(characters for _, characters in found) == text
    assert Error not in [kind for kind, _ in found]
    plain = [each for kind, each in words(text) if not is_token_subtype(kind, String)]
    read = [each for each in tokenize(Source(text, "")).tokens if each.type != "TEXT"]
    assert plain == [str(each) for each in read]


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_every_keyword_is_one(keyword: str) -> None:
    kind = kind_of(keyword, f"let x = {keyword} y")
    assert is_token_subtype(kind, Keyword) or kind in (Operator.Word, Name.Builtin.Pseudo)


@pytest.mark.parametrize("name", sorted(builtins.NAMES))
def test_every_builtin_is_one(name: str) -> None:
    assert kind_of(name, f"let x = {name}(w)") is Name.Builtin


@pytest.mark.parametrize("block", BLOCKS)
def test_every_setting_is_one_in_its_block_only(block: str) -> None:
    for name, specification in BLOCKS[block].items():
        assert kind_of(name, f"{block} {{ {name} = 1 }}") is Name.Attribute
        assert kind_of(name, f"test {{ cluster {name} = 1 }}") is not Name.Attribute
        for word, choice in getattr(specification, "words", {}).items():
            inner = ", ".join(f"{each} = 1" for each in choice.settings)
            text = f"{block} {{ {name} = {word}({inner}) }}"
            assert kind_of(word, text) is Name.Constant
            assert all(kind_of(each, text) is Name.Attribute for each in choice.settings)


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_every_unit_is_part_of_its_number(suffix: str) -> None:
    assert words(f"1.5{suffix}..2{suffix}") == [
        (Number, f"1.5{suffix}"),
        (Operator, ".."),
        (Number, f"2{suffix}"),
    ]


def test_what_declares_a_name_says_what_it_is() -> None:
    text = 'strategy a "b" pool\n# one\nc let d = e def f(g) = g route load { } param h = 1 in 0..2'
    named = [(kind, word) for kind, word in words(text) if is_token_subtype(kind, Name)]
    assert named == [
        (Name.Namespace, "a"),
        (Name.Class, "c"),
        (Name.Variable, "d"),
        (Name, "e"),
        (Name.Function, "f"),
        (Name, "g"),
        (Name, "g"),
        (Name.Label, "load"),
        (Name.Variable, "h"),
    ]


def test_a_route_that_is_expected_is_still_in_a_test() -> None:
    text = 'pool p { }\ntest "t" { expect route r  cluster workers = 2 }'
    assert kind_of("r", text) is Name.Label
    assert kind_of("workers", text) is Name


def test_mistakes_end_with_their_line() -> None:
    found = words('let a = "open\nlet b = 50msec ; "\\n"\nlet c = 1')
    assert [word for kind, word in found if kind is Name.Variable] == ["a", "b", "c"]
    wrong = "".join(word for kind, word in found if kind is Error)
    assert wrong == "50;\\"


def test_pygments_is_told_of_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = declared["entry-points"]["pygments.lexers"]["mserve"].partition(":")
    assert getattr(import_module(module), name) is MserveLexer
