"""Which keywords are worth offering at a cursor: of those the parser would take, what is meant there.

The parser takes `and` behind every expression and `true` wherever one begins; nobody means that
behind a worker, or on a new line.
"""

from collections.abc import Iterator

from mserve.dsl import builtins
from mserve.dsl.lalr import spelling
from mserve.dsl.server.cursor import Cursor
from mserve.dsl.server.places import Place
from mserve.dsl.server.scope import Sort
from mserve.dsl.server.vocabulary import KEYWORDS

OPENERS = frozenset(
    [
        *("EQUAL", "ON", "FROM", "TO", "COMPUTE", "REUSE", "REPLICATE", "IN", "WHEN", "WHERE"),
        *("AND", "OR", "NOT", "IF", "ELSE", "GIVEN", "EXPECT", "CLUSTER", "ROUTE", "LPAR", "COMMA"),
        *("COMPARISON", "PLUS", "MINUS", "STAR", "SLASH"),
    ]
)  # kinds of tokens behind which something must follow

_ONLY_AS_RANGES = frozenset(["PROMPT", "REST"])
_OPERATORS = frozenset(["AND", "OR", "IF"])
_OF_CONDITIONS = frozenset(["TRUE", "FALSE", "NOT"])
_WITHOUT_CONDITIONS = frozenset(["PARAM", "POOL", "SLO", "LIMITS", "ADAPT", "TEST"])


def keywords_at(cursor: Cursor, place: Place) -> Iterator[str]:
    for kind in sorted(cursor.accepts - _unwanted(cursor, place)):
        word = spelling(kind) or ""
        if word in KEYWORDS:
            yield word


def _unwanted(cursor: Cursor, place: Place) -> frozenset[str]:
    level = cursor.levels[-1]
    unwanted = _ONLY_AS_RANGES
    if place.sorts != Sort.CONDITION:
        unwanted |= _OF_CONDITIONS
    in_pool = level.has("FOR") and not level.has("WHERE")
    flat = len(cursor.levels) < 3 and cursor.kind in _WITHOUT_CONDITIONS
    if cursor.at_line_start or in_pool or flat:
        unwanted |= _OPERATORS
    if _behind_worker(cursor):
        unwanted |= {"AND", "OR"}
    if level.callee and level.callee not in builtins.FOLDS:
        unwanted |= {"FOR"}
    if cursor.kind == "ROUTE" and len(cursor.levels) > 1 and cursor.levels[1].has("GENERATE"):
        unwanted |= {"COMPUTE", "REUSE"}
    return unwanted


def _behind_worker(cursor: Cursor) -> bool:
    """In a step, on its worker."""
    in_step = cursor.kind == "ROUTE" and len(cursor.levels) == 2
    line = cursor.levels[1].line if in_step else []
    return any(token.type in ("ON", "FROM", "TO") for token in line)
