"""What may be written at a cursor: which names, of which sort, or which words of which setting.

One rule per construct of the language, by the token before the cursor and the bracket around it.
Knows no names of the strategy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import pairwise

from mserve.dsl import builtins, settings
from mserve.dsl.builtins import Builtin, Role, Stage
from mserve.dsl.lalr import Token
from mserve.dsl.server.cursor import Cursor, Level
from mserve.dsl.server.scope import Sort, sort_of_builtin
from mserve.dsl.settings import Choice, Specification
from mserve.dsl.token_kinds import EXPRESSION_ENDS
from mserve.dsl.types import POOL, WORKER, Kind


class Wanted(Enum):
    KEYWORDS = auto()  # those that the parser accepts, no name
    DECLARATION = auto()
    EXPRESSION = auto()
    POOLS = auto()  # what a comprehension goes over
    POOL_NAMES = auto()
    ROUTES = auto()
    PARAMS = auto()
    SETTINGS = auto()
    WORDS = auto()  # of a setting that is a choice
    GIVENS = auto()
    EXPECTED = auto()
    RANGES = auto()
    PROMPT = auto()
    KEY = auto()


@dataclass(frozen=True)
class Place:
    """`sorts` are of names in an expression; `whole`: a choice that leaves traces may stand here;
    `stage` is the latest that may be asked for; `like`: what is compared with this name."""

    wanted: Wanted
    sorts: Sort = Sort.NONE
    whole: bool = False
    stage: Stage = Stage.REQUEST
    like: str = ""
    known: Mapping[str, Specification] = field(default_factory=dict)
    choice: Choice | None = None
    taken: frozenset[str] = frozenset()

    def allows(self, builtin: Builtin) -> bool:
        """Whether it gives what is wanted, and may be asked here."""
        if builtin.stage is Stage.DISPATCH and not self.whole:
            return False
        if builtin.stage is Stage.REQUEST and self.stage is Stage.CLUSTER:
            return False
        return bool(sort_of_builtin(builtin) & self.sorts)


_KEYWORDS = Place(Wanted.KEYWORDS)
_ARITHMETIC = frozenset(["PLUS", "MINUS", "STAR", "SLASH"])
_BEFORE_CONDITION = frozenset(["AND", "OR", "NOT", "IF", "WHERE", "WHEN"])
_BEFORE_WORKER = frozenset(["ON", "FROM", "TO"])
_TABLES = {"POOL": settings.POOL, "SLO": settings.SLO, "LIMITS": settings.LIMITS}


def place_of(cursor: Cursor) -> Place:
    if cursor.is_top_level:
        return Place(Wanted.DECLARATION)
    place = _RULES[cursor.kind](cursor) if cursor.kind in _RULES else _KEYWORDS
    if place.wanted is Wanted.EXPRESSION and "NAME" not in cursor.accepts:
        return replace(place, wanted=Wanted.KEYWORDS)  # an expression could end here
    return place


def _expression(sorts: Sort, *, whole: bool = False) -> Place:
    return Place(Wanted.EXPRESSION, sorts, whole)


# --- declarations --------------------------------------------------------------------------------


def _value(cursor: Cursor) -> Place:
    """Of `let` and `def`; their names and parameters are the author's to choose."""
    if not cursor.levels[0].has("EQUAL"):
        return _KEYWORDS
    if cursor.previous == "EQUAL":
        return _expression(Sort.VALUE, whole=cursor.kind == "LET")
    return _inside(cursor, _expression(Sort.VALUE))


def _route(cursor: Cursor) -> Place:
    if cursor.levels[0].has("WHEN") and not _in_block(cursor):
        return _inside(cursor, _expression(Sort.CONDITION))
    if not _in_block(cursor):
        return _KEYWORDS
    if cursor.previous in ("COMPUTE", "REUSE", "REPLICATE"):
        return Place(Wanted.RANGES)
    line = cursor.levels[1].line
    if not line or (cursor.at_line_start and cursor.previous in EXPRESSION_ENDS):
        return _KEYWORDS
    if cursor.previous in _BEFORE_WORKER:
        return _expression(Sort.WORKER, whole=True)
    chosen = any(token.type in _BEFORE_WORKER for token in line)
    return _inside(cursor, _expression(Sort.WORKER if chosen else Sort.NUMBER))


def _adapt(cursor: Cursor) -> Place:
    if not _in_block(cursor):
        return _KEYWORDS
    if len(cursor.levels) == 2 and (
        cursor.previous == "LBRACE" or cursor.previous in EXPRESSION_ENDS
    ):
        return Place(Wanted.PARAMS, taken=_given(cursor))
    place = _inside(cursor, _expression(Sort.NUMBER))
    return replace(place, stage=Stage.CLUSTER)


def _in_block(cursor: Cursor) -> bool:
    levels = cursor.levels
    return len(levels) > 1 and levels[1].opener is not None and levels[1].opener.type == "LBRACE"


# --- settings ------------------------------------------------------------------------------------


def _setting(cursor: Cursor) -> Place:
    if not _in_block(cursor):
        return _KEYWORDS
    known: Mapping[str, Specification] = _TABLES[cursor.kind]
    if len(cursor.levels) > 2:
        return _variant(cursor, known)
    tokens = cursor.levels[1].tokens
    if cursor.previous == "EQUAL" and len(tokens) > 1:
        specification = known.get(str(tokens[-2]))
        if isinstance(specification, Choice):
            return Place(Wanted.WORDS, choice=specification)
        return _KEYWORDS
    if cursor.previous == "LBRACE" or cursor.previous in EXPRESSION_ENDS:
        return Place(Wanted.SETTINGS, known=known, taken=_given(cursor))
    return _KEYWORDS


def _variant(cursor: Cursor, known: Mapping[str, Specification]) -> Place:
    """Inside the parentheses of `continuous(tokens = 8192)` or `peer(decode)`."""
    block, inner = cursor.levels[1], cursor.levels[-1]
    names = [token for token in block.tokens if token.type == "NAME"]
    specification = known.get(str(names[-2])) if len(names) > 1 else None
    if not isinstance(specification, Choice) or inner.callee not in specification.words:
        return _KEYWORDS
    word = specification.words[inner.callee]
    if cursor.previous not in ("LPAR", "COMMA"):
        return _KEYWORDS
    if word.takes_pool:
        return Place(Wanted.POOL_NAMES, taken=frozenset([cursor.name]))
    return Place(Wanted.SETTINGS, known=word.settings, taken=_given(cursor))


def _given(cursor: Cursor) -> frozenset[str]:
    """What is set already in the innermost bracket, also behind the cursor."""
    tokens = [*cursor.levels[-1].tokens, None, *cursor.rest_of_levels[-1]]
    pairs = pairwise(tokens)
    return frozenset(str(name) for name, sign in pairs if name and sign and sign.type == "EQUAL")


# --- tests ---------------------------------------------------------------------------------------


def _test(cursor: Cursor) -> Place:
    if not _in_block(cursor):
        return _KEYWORDS
    line = cursor.levels[1].line
    if not line or (cursor.at_line_start and cursor.previous in EXPRESSION_ENDS):
        return _KEYWORDS
    if len(cursor.levels) > 2:
        return _inside(cursor, _expression(Sort.VALUE))
    if cursor.previous == "EQUAL" and line[0].type != "CLUSTER":
        return Place(Wanted.EXPRESSION, Sort.WORKER | Sort.TRUTH, like=_target(line))
    taken = _given_in(line)
    places = {
        ("CLUSTER", "CLUSTER"): Place(Wanted.POOL_NAMES, taken=taken),
        ("CLUSTER", "COMMA"): Place(Wanted.POOL_NAMES, taken=taken),
        ("GIVEN", "GIVEN"): Place(Wanted.GIVENS, taken=taken),
        ("GIVEN", "COMMA"): Place(Wanted.GIVENS, taken=taken),
        ("EXPECT", "EXPECT"): Place(Wanted.EXPECTED),
        ("EXPECT", "ROUTE"): Place(Wanted.ROUTES),
        ("EXPECT", "FROM"): _expression(Sort.WORKER),
        ("EXPECT", "TO"): _expression(Sort.WORKER),
    }
    known = places.get((line[0].type, cursor.previous))
    if known is not None:
        return known
    outer = _KEYWORDS if line[0].type == "CLUSTER" else _expression(Sort.VALUE)
    return _inside(cursor, outer)


def _given_in(line: list[Token]) -> frozenset[str]:
    pairs = pairwise(line)
    found = (name for name, sign in pairs if name.type == "NAME" and sign.type == "EQUAL")
    return frozenset(str(name) for name in found)


def _target(line: list[Token]) -> str:
    """The name that the last `=` gives a value, or of the observation."""
    return next((str(token) for token in reversed(line) if token.type == "NAME"), "")


# --- inside of expressions -----------------------------------------------------------------------


def _inside(cursor: Cursor, outer: Place) -> Place:
    """`outer` is what is wanted where nothing nearer says otherwise."""
    previous = cursor.previous
    if previous in _ARITHMETIC:
        return _expression(Sort.NUMBER)
    if previous == "COMPARISON":
        equal = str(cursor.before[-1]) in ("==", "!=")
        return _expression(Sort.VALUE if equal else Sort.NUMBER)
    if previous in _BEFORE_CONDITION:
        return _expression(Sort.CONDITION)
    if previous == "FOR":
        return _KEYWORDS
    if previous == "IN":
        return Place(Wanted.POOLS)
    level = _nearest(cursor)
    return outer if level is None else _argument(level)


def _nearest(cursor: Cursor) -> Level | None:
    """The innermost bracket that is a call's, a comprehension's or a range's."""
    for level in reversed(cursor.levels[1:]):
        if level.opener is None or level.opener.type == "LBRACE":
            return None
        if level.callee or level.opener.type == "LSQB":
            return level
    return None


def _argument(level: Level) -> Place:
    if level.has("FOR") and level.has("IN"):  # behind a whole pool: only words can follow
        return _KEYWORDS
    if not level.callee:
        bounds = level.owner is not None and level.owner.type in ("PROMPT", "SENDS")
        return _expression(Sort.NUMBER) if bounds else _KEYWORDS
    call, fold = builtins.CALLS.get(level.callee), builtins.FOLDS.get(level.callee)
    if call is not None and not (fold and level.has("FOR")):
        index = level.num_commas
        if index >= len(call.takes) and not call.variadic:
            return _KEYWORDS
        return _taken(call.takes[min(index, len(call.takes) - 1)])
    return _taken(fold.takes[0]) if fold is not None else _expression(Sort.ANY)


def _taken(wanted: object) -> Place:
    """The place of an argument by what a built-in takes there."""
    places = {
        WORKER: _expression(Sort.WORKER),
        POOL: Place(Wanted.POOLS),
        Role.PROMPT: Place(Wanted.PROMPT),
        Role.ROUTE: Place(Wanted.ROUTES),
        Role.KEY: Place(Wanted.KEY, Sort.TEXT),
        Role.QUOTED: _KEYWORDS,
        Role.BOOL_OR_WORKER: _expression(Sort.CONDITION | Sort.WORKER),
    }
    bool_or_number = Sort.CONDITION if getattr(wanted, "kind", None) is Kind.BOOL else Sort.NUMBER
    return places.get(wanted, _expression(bool_or_number))


_RULES: Mapping[str, Callable[[Cursor], Place]] = {
    **dict.fromkeys(("POOL", "SLO", "LIMITS"), _setting),
    **dict.fromkeys(("LET", "DEF"), _value),
    "ROUTE": _route,
    "ADAPT": _adapt,
    "TEST": _test,
}
