"""Which names are what, for editors that colour by meaning: kinds and marks of every known name."""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.dsl.lalr import span_of
from mserve.dsl.server.document import Document
from mserve.dsl.syntax import Span

# Meanings' kinds as the protocol's kinds of tokens.
KINDS = {
    "strategy": "namespace",
    "param": "parameter",
    "pool": "class",
    "binding": "variable",
    "definition": "function",
    "route": "label",
    "variable": "variable",
    "parameter": "parameter",
    "observation": "function",
    "choice": "function",
    "aggregate": "function",
    "function": "function",
    "setting": "property",
    "word": "enumMember",
}
LEGEND = tuple(dict.fromkeys(KINDS.values()))
MARKS = ("declaration", "defaultLibrary")
_BUILT_IN = frozenset(["observation", "choice", "aggregate", "function"])


@dataclass(frozen=True, slots=True)
class Coloured:
    """`kind` is one of LEGEND, `marks` are of MARKS."""

    span: Span
    kind: str
    marks: tuple[str, ...] = ()


def coloured_names(document: Document) -> Iterator[Coloured]:
    """In text order; names that mean nothing are left out."""
    for token in document.tokens:
        span = span_of(token)
        found = document.navigation.describe(span.start) if token.type == "NAME" else None
        if found is None or found.span != span:
            continue
        meaning = found.meaning
        marks = ["declaration"] if meaning.declared == span else []
        marks += ["defaultLibrary"] if meaning.kind in _BUILT_IN else []
        yield Coloured(span, KINDS[meaning.kind], tuple(marks))
