"""What the call around the cursor takes, and which of it is being written."""

from dataclasses import dataclass

from mserve.dsl import builtins
from mserve.dsl.server.cursor import Cursor, cursor_at
from mserve.dsl.server.document import Document


@dataclass(frozen=True, slots=True)
class Signature:
    """`label` with its parameters as parts of it, in order."""

    label: str
    doc: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """`active` is the index of the parameter at the cursor; the likeliest signature comes first."""

    signatures: tuple[Signature, ...]
    active: int


def call_at(document: Document, offset: int) -> Call | None:
    cursor = cursor_at(document.source, document.tokens, offset)
    if cursor is None or cursor.kind in ("POOL", "SLO", "LIMITS", ""):
        return None
    for level in reversed(cursor.levels):
        if level.callee:
            found = _signatures(document, cursor, level.callee)
            if level.has("FOR"):
                found = found[::-1][:1]
            return Call(found, level.num_commas) if found else None
    return None


def _signatures(document: Document, cursor: Cursor, name: str) -> tuple[Signature, ...]:
    found = []
    for table, folds in ((builtins.CALLS, False), (builtins.FOLDS, True)):
        if name in table:
            label = table[name].form(folds)
            found.append(Signature(label, table[name].doc, _parameters(label, folds=folds)))
    return tuple(found) or _of_definition(document, cursor, name)


def _of_definition(document: Document, cursor: Cursor, name: str) -> tuple[Signature, ...]:
    if cursor.kind == "DEF" and not cursor.levels[0].has("EQUAL"):
        return ()
    for symbol in document.navigation.symbols():
        hover = document.navigation.describe(symbol.name_span.start)
        if (symbol.kind, symbol.name) == ("definition", name) and hover is not None:
            label = hover.meaning.code.removeprefix("def ").partition(" = ")[0]
            return (Signature(label, hover.meaning.doc, _parameters(label, folds=False)),)
    return ()


def _parameters(label: str, *, folds: bool) -> tuple[str, ...]:
    inside = label.partition("(")[2].removesuffix(")")
    if folds:
        return (inside,)
    return tuple(inside.split(", ")) if inside else ()
