"""What the thing at a place is, as Markdown: names, keywords, numbers with their units."""

import re
from bisect import bisect_right
from dataclasses import dataclass

from mserve.dsl.lalr import Token, span_of
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.meanings import Meaning
from mserve.dsl.server.document import Document
from mserve.dsl.server.vocabulary import KEYWORDS, describe_number
from mserve.dsl.syntax import Span

_NUMBER = re.compile(rf"[0-9]+(?:\.[0-9]+)?(?:{'|'.join(SUFFIXES)})?")
_NUMBERS = frozenset(["NUMBER", "RATIO", "DURATION", "BYTES"])


@dataclass(frozen=True, slots=True)
class Shown:
    span: Span
    markdown: str


def hover_at(document: Document, offset: int) -> Shown | None:
    named = document.navigation.describe(offset)
    if named is not None:
        return Shown(named.span, _of_name(named.meaning))
    token = _token_at(document.tokens, offset)
    if token is None:
        return None
    if token.type in _NUMBERS and _NUMBER.fullmatch(token):  # else it stands in for a mistake
        return Shown(span_of(token), describe_number(token))
    keyword = KEYWORDS.get(str(token))
    if keyword is None or token.type == "NAME":
        return None
    return Shown(span_of(token), markdown_of(keyword.form, "", keyword.doc))


def markdown_of(code: str, type_: str, doc: str) -> str:
    """How it is written, what it is and what it means; each may be empty."""
    block = f"```mserve\n{code}\n```" if code else ""
    words = " — ".join(part for part in (type_, doc) if part)
    return "\n\n".join(part for part in (block, words) if part)


def _of_name(meaning: Meaning) -> str:
    kind = f"*{meaning.kind}*"
    return markdown_of(
        meaning.code, f"{kind}, {meaning.type}" if meaning.type else kind, meaning.doc
    )


def _token_at(tokens: list[Token], offset: int) -> Token | None:
    index = bisect_right(tokens, offset, key=lambda token: span_of(token).start) - 1
    if index < 0 or offset > span_of(tokens[index]).end:
        return None
    return tokens[index]
