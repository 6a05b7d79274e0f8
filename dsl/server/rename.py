"""Renaming: where a name can be changed, to what, and all the places that change with it.

Refuses with a sentence where the result would mean something else than before.
"""

import re

from mserve.dsl import builtins
from mserve.dsl.lalr import Token, span_of
from mserve.dsl.meanings import Meaning
from mserve.dsl.navigation import Hover
from mserve.dsl.parser import parse
from mserve.dsl.server.cursor import begins_declaration
from mserve.dsl.server.document import Document
from mserve.dsl.server.vocabulary import KEYWORDS
from mserve.dsl.syntax import Span

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOCAL = frozenset(["variable", "parameter"])
_SHARED = frozenset(["param", "pool", "binding", "definition"])


class CannotRename(Exception):
    """A sentence for the author that says why."""


def renamable_at(document: Document, offset: int) -> Span:
    """The name at a place. Raises CannotRename."""
    return _named(document, offset).span


def rename_at(document: Document, offset: int, name: str) -> tuple[Span, ...]:
    """What to replace by `name`. Raises CannotRename."""
    found = _named(document, offset)
    if name != found.meaning.name:
        _check_name(document, found.meaning, name)
    return document.navigation.references(offset)


def _named(document: Document, offset: int) -> Hover:
    found = document.navigation.describe(offset)
    if found is None:
        raise CannotRename("There is no name here that could be changed.")
    if found.meaning.declared is None:
        raise CannotRename(f"`{found.meaning.name}` is part of the language.")
    if parse(document.source).diagnostics:
        raise CannotRename("Parts of the file cannot be read: mend them first, so none is missed.")
    return found


def _check_name(document: Document, meaning: Meaning, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CannotRename(f"`{name}` is not a name: letters, digits and `_`, no digit first.")
    if name in KEYWORDS:
        raise CannotRename(f"`{name}` is a keyword.")
    if meaning.kind in _LOCAL | _SHARED and name in builtins.NAMES:
        raise CannotRename(f"`{name}` is part of the language.")
    other = _other_of_name(document, meaning, name)
    if other is not None:
        raise CannotRename(f"There is a {other} `{name}` already.")


def _other_of_name(document: Document, meaning: Meaning, name: str) -> str | None:
    """The kind of what has the name already where the one to be renamed is seen."""
    alone = meaning.kind in ("strategy", "route")  # the namespaces of their own
    kinds = frozenset([meaning.kind]) if alone else _LOCAL | _SHARED
    near = _declaration_around(document, meaning) if meaning.kind in _LOCAL else None
    for token in document.tokens:
        if token.type != "NAME" or token != name:
            continue
        span = span_of(token)
        found = document.navigation.describe(span.start)
        kind = found.meaning.kind if found is not None and found.span == span else ""
        far = near is not None and not near.start <= span.start < near.end
        if kind in kinds and not (kind in _LOCAL and far):
            return kind
    return None


def _declaration_around(document: Document, meaning: Meaning) -> Span:
    """From the keyword before the place where a variable is declared to the next one."""
    assert meaning.declared is not None, "variables and parameters are declared"
    begin, tokens = 0, document.tokens
    before: Token | None = None
    for token in tokens:
        start = span_of(token).start
        if begins_declaration(before, token):
            if start > meaning.declared.start:
                return Span(begin, start)
            begin = start
        before = token
    return Span(begin, len(document.source.text))
