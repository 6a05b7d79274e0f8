"""The Pygments lexer of strategies: for Sphinx, MkDocs, `pygmentize` and all that uses Pygments.

Finds words by shape and says what they are by the tables of the language: a new keyword or setting
needs no change here. Goes on past mistakes; knows no grammar rule. The only module that imports
Pygments, which no other part of mserve needs.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import ClassVar, NamedTuple

from pygments.lexer import RegexLexer
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
    _TokenType,
    is_token_subtype,
)

from mserve.dsl import builtins, settings
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.settings import Choice, Specification

_UNITS = "|".join(sorted(SUFFIXES, key=len, reverse=True))
_BLANK = (Whitespace, Comment.Single)
# What a name is that stands right behind the keyword which declares it.
_DECLARED: Mapping[str, _TokenType] = {
    "strategy": Name.Namespace,
    "param": Name.Variable,
    "pool": Name.Class,
    "let": Name.Variable,
    "def": Name.Function,
    "route": Name.Label,
}
# Keywords that are more than a keyword; all others of the grammar are plain.
_KEYWORDS: Mapping[str, _TokenType] = {
    **dict.fromkeys(("and", "or", "not"), Operator.Word),
    **dict.fromkeys(("true", "false"), Keyword.Constant),
    **dict.fromkeys(("prompt", "rest"), Name.Builtin.Pseudo),
    **dict.fromkeys((*_DECLARED, "adapt", "slo", "limits", "test"), Keyword.Declaration),
}
_WITH_SETTINGS: Mapping[str, Mapping[str, Specification]] = {
    "pool": settings.POOL,
    "slo": settings.SLO,
    "limits": settings.LIMITS,
}


class MserveLexer(RegexLexer):
    """Strategies of mserve."""

    name = "mserve"
    aliases: ClassVar = ["mserve"]
    filenames: ClassVar = ["*.mserve"]
    mimetypes: ClassVar = ["text/x-mserve"]
    tokens: ClassVar = {
        "root": [
            (r"\s+", Whitespace),
            (r"#[^\r\n]*", Comment.Single),
            (r'"', String.Double, "text"),
            (rf"[0-9]+(?:\.[0-9]+)?(?:{_UNITS})?(?![A-Za-z0-9_%])", Number),
            (r"[A-Za-z_][A-Za-z0-9_]*(?=\s*=(?!=))", Name.Attribute),
            (r"[A-Za-z_][A-Za-z0-9_]*", Name),
            (r"[<>]=?|[=!]=|\.\.|[-+*/=]", Operator),
            (r"[{}()\[\],:]", Punctuation),
        ],
        "text": [
            (r'[^"\\\r\n]+', String.Double),
            (r'\\["\\]', String.Escape),
            (r'"', String.Double, "#pop"),
            (r"(?=[\r\n])", String.Double, "#pop"),  # not closed: the next line is read as ever
        ],
    }

    def get_tokens_unprocessed(
        self, text: str, stack: Iterable[str] = ("root",)
    ) -> Iterator[tuple[int, _TokenType, str]]:
        """(offset, kind, characters) of all of `text`; what begins no token is an `Error`."""
        declaration = before = ""  # the last keyword that declares, the last word or sign
        for offset, kind, word in super().get_tokens_unprocessed(text, stack):
            if is_token_subtype(kind, Name):
                if _KEYWORDS.get(word) is Keyword.Declaration and before != "expect":
                    declaration = word
                kind = _kind_of(word, before, declaration, is_set=kind is Name.Attribute)
            yield offset, kind, word
            if kind not in _BLANK:
                before = word


def _kind_of(word: str, before: str, declaration: str, *, is_set: bool) -> _TokenType:
    """Of a word behind `before`, in the declaration that begins with that keyword.

    `is_set`: an equals sign follows.
    """
    if word in _keywords():
        return _KEYWORDS.get(word, Keyword)
    if before in _DECLARED:
        return _DECLARED[before]
    known = _setting_words(declaration)
    if is_set and word in known.names:
        return Name.Attribute
    if before == "=" and word in known.choices:
        return Name.Constant
    return Name.Builtin if word in builtins.NAMES else Name


class _SettingWords(NamedTuple):
    names: frozenset[str]
    choices: frozenset[str]


@cache
def _setting_words(declaration: str) -> _SettingWords:
    """What may be set in a declaration of this kind, also inside of a choice, and the choices."""
    specifications = _WITH_SETTINGS.get(declaration, {})
    choices = [each for each in specifications.values() if isinstance(each, Choice)]
    words = {name: word for choice in choices for name, word in choice.words.items()}
    inner = {name for word in words.values() for name in word.settings}
    return _SettingWords(frozenset(specifications) | inner, frozenset(words))


@cache
def _keywords() -> frozenset[str]:
    from mserve.dsl.tables import load_parser  # late: Pygments loads lexers it may not need

    patterns = [terminal.pattern for terminal in load_parser().terminals]
    return frozenset(each.value for each in patterns if each.type == "str" and each.value.isalpha())
