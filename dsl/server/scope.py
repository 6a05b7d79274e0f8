"""The names of a strategy by what they can stand for, also while some declarations are broken.

Built on navigation.py, which knows what could be read; of what could not, only the names are known,
and they fit everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Flag, auto
from itertools import pairwise

from mserve.dsl import builtins
from mserve.dsl.builtins import Builtin
from mserve.dsl.meanings import Meaning
from mserve.dsl.navigation import Navigation
from mserve.dsl.server.cursor import Cursor, begins_declaration
from mserve.dsl.types import UNKNOWN, Kind


class Sort(Flag):
    """What a name may be in an expression."""

    NUMBER = auto()
    TEXT = auto()
    TRUTH = auto()
    WORKER = auto()
    POOL = auto()
    NONE = 0
    CONDITION = NUMBER | TEXT | TRUTH  # how one may begin
    VALUE = CONDITION | WORKER
    ANY = VALUE | POOL


@dataclass(frozen=True, slots=True)
class Named:
    meaning: Meaning
    sort: Sort

    @property
    def name(self) -> str:
        return self.meaning.name


_KINDS = {
    "param": ("param", Sort.NUMBER),
    "pool": ("pool", Sort.POOL),
    "let": ("binding", Sort.ANY),
    "def": ("definition", Sort.ANY),
    "route": ("route", Sort.NONE),
}
_SORTS = {
    Kind.NUMBER: Sort.NUMBER,
    Kind.TEXT: Sort.TEXT,
    Kind.BOOL: Sort.TRUTH,
    Kind.WORKER: Sort.WORKER,
    Kind.POOL: Sort.POOL,
}


def declared_names(navigation: Navigation, cursor: Cursor) -> tuple[Named, ...]:
    """Params, pools, bindings, definitions and routes, without the declaration at the cursor."""
    found = [*_read(navigation), *_unread(cursor)]
    first: dict[tuple[str, bool], Named] = {}
    for each in found:
        first.setdefault((each.name, each.meaning.kind == "route"), each)
    if cursor.kind in ("PARAM", "POOL", "LET", "DEF"):
        first.pop((cursor.name, False), None)
    return tuple(first.values())


def _read(navigation: Navigation) -> Iterator[Named]:
    known = dict(_KINDS.values())
    for symbol in navigation.symbols():
        hover = navigation.describe(symbol.name_span.start)
        if symbol.kind in known and hover is not None and hover.meaning.name == symbol.name:
            yield Named(hover.meaning, _sort_of(hover.meaning, known[symbol.kind]))


def _sort_of(meaning: Meaning, otherwise: Sort) -> Sort:
    """Of a binding by its type, where that is known."""
    if meaning.kind != "binding" or meaning.found == UNKNOWN:
        return otherwise
    return _SORTS.get(meaning.found.kind, Sort.NUMBER)


def _unread(cursor: Cursor) -> Iterator[Named]:
    tokens = cursor.everything
    for before, token, name in zip([None, *tokens], tokens, tokens[1:], strict=False):
        declares = begins_declaration(before, token) and str(token) in _KINDS
        if declares and name.type == "NAME":
            kind, sort = _KINDS[str(token)]
            yield Named(Meaning(kind, str(name), f"{token} {name}"), sort)


def local_names(cursor: Cursor) -> tuple[Named, ...]:
    """Parameters, and variables of the comprehensions around the cursor, innermost first."""
    variables: list[Named] = []
    levels = zip(cursor.levels, cursor.rest_of_levels, strict=True)
    for level, rest in list(levels)[::-1]:
        tokens = [*level.tokens, *rest]
        found = [
            str(name)
            for sign, name in pairwise(tokens)
            if (sign.type, name.type) == ("FOR", "NAME")
        ]
        if not found and level.callee in builtins.FOLDS and not level.has("FOR", "COMMA"):
            found = ["w"] if level.callee not in builtins.CALLS else []  # not written yet
        variables += [_variable(name) for name in found[:1]]
    return (*variables, *_parameters(cursor))


def _variable(name: str) -> Named:
    code = f"for {name} in ..."
    return Named(Meaning("variable", name, code, "a worker", "each worker in turn"), Sort.WORKER)


def _parameters(cursor: Cursor) -> Iterator[Named]:
    if cursor.kind != "DEF":
        return
    for token in cursor.before[2:]:
        if token.type == "RPAR":
            return
        if token.type == "NAME":
            doc = f"a parameter of `{cursor.name}`"
            yield Named(Meaning("parameter", str(token), str(token), "", doc), Sort.ANY)


def sort_of_builtin(builtin: Builtin) -> Sort:
    """Arithmetic and folds without a result of their own give numbers."""
    return Sort.NUMBER if builtin.result is None else _SORTS[builtin.result.kind]
