"""Completion: what can be written at a place of a text that is only half written.

`places.py` says what is wanted there, the parser which keywords it would take; here both become
items with their types and docs. Knows no protocol; a snippet's tab stops are those of editors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from mserve.dsl import builtins, meanings
from mserve.dsl.builtins import Builtin, Stage
from mserve.dsl.meanings import Meaning
from mserve.dsl.navigation import Navigation
from mserve.dsl.server.cursor import Cursor, cursor_at
from mserve.dsl.server.keywords import OPENERS, keywords_at
from mserve.dsl.server.places import Wanted, place_of
from mserve.dsl.server.scope import Named, Sort, declared_names, local_names, sort_of_builtin
from mserve.dsl.server.vocabulary import DECLARATIONS, FALLBACK_ROUTE, KEYWORDS, Keyword
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span
from mserve.dsl.tokens import tokenize
from mserve.dsl.types import WORKER

MAX_POSITIONS = 4  # of a pool's workers, in tests


@dataclass(frozen=True, slots=True)
class Item:
    """`kind` is a meaning's kind or "keyword"; `snippet` is empty where the label is inserted."""

    label: str
    kind: str
    detail: str = ""
    doc: str = ""
    code: str = ""
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """`items`, best first, replace the characters of `span`. `needed`: something must follow here,
    so editors may offer them unasked."""

    span: Span
    items: tuple[Item, ...] = ()
    needed: bool = False


def complete(source: Source, offset: int, navigation: Navigation | None = None) -> Completion:
    """Never raises for any text; `navigation` is the text's index, if there is one already."""
    cursor = cursor_at(source, tokenize(source).tokens, offset)
    if cursor is None:
        return Completion(Span(offset, offset))
    completer = _Completer(cursor, navigation or Navigation(source))
    items = {item.label: item for item in reversed([*completer.items()])}
    span = Span(cursor.start, cursor.offset)
    return Completion(span, tuple(items.values())[::-1], cursor.previous in OPENERS)


class _Completer:
    def __init__(self, cursor: Cursor, navigation: Navigation) -> None:
        self._cursor = cursor
        self._navigation = navigation
        self._place = place_of(cursor)

    def items(self) -> Iterator[Item]:
        """Best first."""
        wanted, keywords = self._place.wanted, [*self._keywords()]
        makers = {
            Wanted.DECLARATION: self._declarations,
            Wanted.SETTINGS: self._settings,
            Wanted.WORDS: self._words,
            Wanted.RANGES: self._ranges,
            Wanted.PROMPT: lambda: [_keyword("prompt")],
            Wanted.KEY: lambda: [*self._expression(), _keyword("prompt")],
            Wanted.EXPRESSION: self._expression,
            Wanted.GIVENS: self._givens,
            Wanted.EXPECTED: self._expected,
        }
        if self._cursor.previous in ("EXPECT", "GENERATE"):
            yield from keywords
        yield from makers.get(wanted, self._names_only)()
        if wanted not in (Wanted.DECLARATION, Wanted.RANGES, Wanted.PROMPT):
            yield from keywords

    # --- declarations, settings, ranges ----------------------------------------------------------

    def _declarations(self) -> Iterator[Item]:
        named = any(token.type == "STRATEGY" for token in self._cursor.everything)
        if not named and not self._cursor.before:
            yield _keyword("strategy")
            return
        for word in DECLARATIONS:
            if word == "route":
                yield _from("route … when", "keyword", KEYWORDS[word])
                yield _from("route", "keyword", FALLBACK_ROUTE)
            elif word != "strategy":
                yield _keyword(word)

    def _settings(self) -> Iterator[Item]:
        for name, specification in self._place.known.items():
            if name not in self._place.taken:
                yield _meant(meanings.of_setting(name, specification), f"{name} = $0")

    def _words(self) -> Iterator[Item]:
        choice = self._place.choice
        assert choice is not None, "a place of words has their choice"
        for name, word in choice.words.items():
            stops = [f"{each} = ${{{n}}}" for n, each in enumerate(word.settings, 1)]
            inside = "$0" if word.takes_pool else ", ".join(stops)
            yield _meant(meanings.of_word(name, choice), f"{name}({inside})" if inside else "")

    def _ranges(self) -> Iterator[Item]:
        block = self._cursor.levels[1]
        form, doc = KEYWORDS["prompt"].form, KEYWORDS["prompt"].doc
        yield _keyword("prompt")
        yield Item("prompt[:b]", "keyword", "from its beginning", doc, form, "prompt[:$1]$0")
        yield Item("prompt[a:]", "keyword", "to its end", doc, form, "prompt[$1:]$0")
        yield Item("prompt[a:b]", "keyword", "a part of it", doc, form, "prompt[$1:$2]$0")
        if sum(token.type in ("COMPUTE", "REUSE") for token in block.tokens) > 1:
            yield _keyword("rest")

    def _keywords(self) -> Iterator[Item]:
        yield from map(_keyword, keywords_at(self._cursor, self._place))

    # --- names -----------------------------------------------------------------------------------

    def _names_only(self) -> Iterator[Item]:
        wanted = self._place.wanted
        kinds = {
            Wanted.POOLS: "pool",
            Wanted.POOL_NAMES: "pool",
            Wanted.ROUTES: "route",
            Wanted.PARAMS: "param",
        }
        names = [] if wanted not in kinds else self._declared
        if wanted is Wanted.POOLS:
            yield from (_named(each) for each in local_names(self._cursor) if _may_be_pool(each))
        for each in names:
            also = wanted is Wanted.POOLS and _may_be_pool(each) and each.meaning.kind == "binding"
            if each.meaning.kind == kinds[wanted] and each.name not in self._place.taken:
                equals = wanted is Wanted.PARAMS or self._cursor.previous == "CLUSTER"
                yield _meant(each.meaning, f"{each.name} = $0" if equals else "")
            elif also:
                yield _named(each)
        if wanted is Wanted.POOLS:
            form = "[v for v in POOL where COND]"
            snippet = f"[v for v in ${{1:{self._a_pool()}}} where $0]"
            yield Item("[v for v in …]", "snippet", "those workers of a pool", "", form, snippet)

    def _expression(self) -> Iterator[Item]:
        place = self._place
        if place.like:
            yield from self._like()
            return
        if place.sorts & Sort.WORKER and self._cursor.kind == "TEST":
            yield from self._positions()
        yield from (_named(each) for each in local_names(self._cursor) if each.sort & place.sorts)
        for each in self._declared:
            late = each.meaning.kind == "binding" and place.stage is Stage.CLUSTER
            if each.sort & place.sorts and each.meaning.kind != "route" and not late:
                yield _named(each)
        for table, folds in (
            (builtins.BARE, False),
            (builtins.CALLS, False),
            (builtins.FOLDS, True),
        ):
            yield from self._builtins(table, folds=folds)

    def _builtins(self, table: Mapping[str, Builtin], *, folds: bool) -> Iterator[Item]:
        in_test = self._cursor.kind == "TEST"
        for builtin in table.values():
            chooses = sort_of_builtin(builtin) is Sort.WORKER
            if self._place.allows(builtin) and not (in_test and (chooses or folds)):
                yield self._builtin(builtin, folds=folds)

    def _builtin(self, builtin: Builtin, *, folds: bool) -> Item:
        name, form = builtin.name, builtin.form(folds)
        twice = folds and name in builtins.CALLS
        snippet = ""
        if folds:
            value = {"count": "queued(w) > 0", "any": "queued(w) > 0", "all": "queued(w) > 0"}
            inner = value.get(name, "load(w)")
            snippet = f"{name}(${{1:{inner}}} for w in ${{2:{self._a_pool()}}})"
        elif name == "tokens":
            snippet = "tokens(prompt)"
        elif builtin.takes:
            snippet = f"{name}($1)$0" if len(builtin.takes) == 1 else f"{name}($1, $2)$0"
        meaning = meanings.of_builtin(builtin)
        label = f"{name} … for" if twice else name
        return Item(label, meaning.kind, meaning.type, meaning.doc, form, snippet)

    def _givens(self) -> Iterator[Item]:
        for item in self._expected():
            if item.label not in self._place.taken:
                written = (item.snippet or item.label).removesuffix("$0")
                yield replace(item, snippet=f"{written} = $0")

    def _expected(self) -> Iterator[Item]:
        """What a test fixes or looks at: bindings, params, observations."""
        for each in self._declared:
            if each.meaning.kind in ("binding", "param"):
                yield _named(each)
        for builtin in (*builtins.BARE.values(), *builtins.CALLS.values()):
            item = self._builtin(builtin, folds=False)
            if item.kind == "observation":
                yield item

    def _like(self) -> Iterator[Item]:
        """What the other side of `=` could be."""
        like = self._place.like
        sorts = [each.sort for each in self._declared if each.name == like]
        sorts += [
            sort_of_builtin(table[like])
            for table in (builtins.FOLDS, builtins.CALLS, builtins.BARE)
            if like in table
        ]
        if sorts and Sort.WORKER in sorts[0]:
            yield from self._positions()
        elif sorts and Sort.TRUTH in sorts[0]:
            yield from map(_keyword, ("true", "false"))

    def _positions(self) -> Iterator[Item]:
        """The workers of a test's cluster: `decode[0]`."""
        sizes = _cluster_sizes(self._cursor)
        for each in self._declared:
            if each.meaning.kind == "pool":
                for index in range(min(sizes.get(each.name, 1), MAX_POSITIONS)):
                    detail = f"{meanings.in_words(WORKER)} of `{each.name}`"
                    yield Item(f"{each.name}[{index}]", "variable", detail)

    @cached_property
    def _declared(self) -> tuple[Named, ...]:
        return declared_names(self._navigation, self._cursor)

    def _a_pool(self) -> str:
        pools = (each.name for each in self._declared if each.meaning.kind == "pool")
        return next(pools, "pool")


def _cluster_sizes(cursor: Cursor) -> dict[str, int]:
    tokens = [*cursor.before, *cursor.after]
    sizes: dict[str, int] = {}
    for (name, sign), (_, size) in pairwise(pairwise(tokens)):
        counted = size.type == "NUMBER" and size.isdigit() and len(size) < 6
        if (name.type, sign.type) == ("NAME", "EQUAL") and counted:
            sizes.setdefault(str(name), int(size))
    return sizes


def _may_be_pool(each: Named) -> bool:
    return bool(each.sort & Sort.POOL) and each.meaning.kind != "definition"


# --- items ---------------------------------------------------------------------------------------


def _keyword(word: str) -> Item:
    return _from(word, "keyword", KEYWORDS[word])


def _from(label: str, kind: str, keyword: Keyword) -> Item:
    return Item(label, kind, "", keyword.doc, keyword.form, keyword.snippet)


def _meant(meaning: Meaning, snippet: str = "") -> Item:
    return Item(meaning.name, meaning.kind, meaning.type, meaning.doc, meaning.code, snippet)


def _named(each: Named) -> Item:
    snippet = f"{each.name}($1)$0" if each.meaning.kind == "definition" else ""
    return _meant(each.meaning, snippet)
