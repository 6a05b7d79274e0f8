"""What editors ask about a place in a strategy: what is this, where is it declared, who uses it,
what is in the file.

Answers from whatever could be read of the text. Knows no protocol; offsets count characters.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property

from mserve.dsl import syntax
from mserve.dsl.comments import Docs, comments_of
from mserve.dsl.cost import find_costs
from mserve.dsl.demands import check_types
from mserve.dsl.dependencies import find_order
from mserve.dsl.inference import Inference
from mserve.dsl.lalr import Token, span_of
from mserve.dsl.meanings import Meaning
from mserve.dsl.occurrences import Occurrence, Occurrences, Words
from mserve.dsl.parser import Parsed, parse
from mserve.dsl.source import Source
from mserve.dsl.symbols import Declaration, Symbols, declarations
from mserve.dsl.syntax import Span
from mserve.dsl.tokens import tokenize
from mserve.dsl.types import UNKNOWN


@dataclass(frozen=True, slots=True)
class Hover:
    """The name at `span` and what it means there (kind, type, code, doc, declared)."""

    span: Span
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Symbol:
    """An entry of the outline: `name_span` lies in `span`; `detail` is a type or a guard."""

    kind: str
    name: str
    detail: str
    span: Span
    name_span: Span


class Navigation:
    """The index of one text: build it once per version of a file and ask it often."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self, offset: int) -> Hover | None:
        """The name whose characters, or end, are at `offset`."""
        found = self._at(offset)
        return None if found is None else Hover(found.span, found.meaning)

    def definition(self, offset: int) -> Span | None:
        """The declaring name's span; None for built-ins and where there is no name."""
        found = self._at(offset)
        return None if found is None else found.meaning.declared

    def references(self, offset: int) -> tuple[Span, ...]:
        """All places of the name at `offset`, its declaration included, in text order."""
        found = self._at(offset)
        if found is None:
            return ()
        same = (each for each in self._occurrences if _identity(each) == _identity(found))
        return tuple(each.span for each in same)

    def symbols(self) -> tuple[Symbol, ...]:
        """The declarations, in text order."""
        tree = self._parsed.strategy
        named = [*declarations(tree), *tree.routes]
        found = [self._symbol(item) for item in named]
        found += [self._test(test) for test in tree.tests]
        for kind, items in (("adapt", tree.adapts), ("slo", tree.slos), ("limits", tree.limits)):
            found += [self._unnamed(kind, item.span) for item in items]
        return tuple(sorted(found, key=lambda each: each.span.start))

    def _symbol(self, item: Declaration | syntax.Route) -> Symbol:
        meaning = self._collector.meaning_of(item)
        detail = meaning.type
        if isinstance(item, syntax.Route) and item.guard is not None:
            detail = f"when {self._source.one_line(item.guard.span)}"
        return Symbol(meaning.kind, item.name, detail, item.span, item.name_span)

    def _test(self, test: syntax.Test) -> Symbol:
        titles = (span_of(token) for token in self._tokens if token.type == "TEXT")
        title = next(span for span in titles if span.start >= test.span.start)
        return Symbol("test", test.title, "", test.span, title)

    def _unnamed(self, kind: str, span: Span) -> Symbol:
        return Symbol(kind, kind, "", span, Span(span.start, span.start + len(kind)))

    # --- the index, built when it is first asked ---------------------------------------------

    @cached_property
    def _tokens(self) -> list[Token]:
        return tokenize(self._source).tokens

    @cached_property
    def _parsed(self) -> Parsed:
        return parse(self._source)

    @cached_property
    def _docs(self) -> Docs:
        return Docs(self._source, comments_of(self._source, self._tokens))

    @cached_property
    def _collector(self) -> Occurrences:
        tree = self._parsed.strategy
        known = Symbols.of(tree, self._parsed.unread)
        order = find_order(known)
        endless = {each.name for each in order.cyclic if not each.route}
        inference = Inference(known, endless | find_costs(tree, known, order).refused)
        check_types(tree, known, order, inference)
        return Occurrences(known, inference, Words.of(self._tokens), self._doc)

    @cached_property
    def _occurrences(self) -> list[Occurrence]:
        return self._collector.of(self._parsed.strategy)

    def _doc(self, span: Span) -> str:
        return self._docs.of_line(self._source.position(span.start).line)

    def _at(self, offset: int) -> Occurrence | None:
        index = bisect_right(self._occurrences, offset, key=lambda each: each.span.start) - 1
        if index < 0:
            return None
        found = self._occurrences[index]
        return found if offset <= found.span.end else None


def _identity(occurrence: Occurrence) -> Meaning:
    """Equal for occurrences of the same thing."""
    return replace(occurrence.meaning, type="", doc="", found=UNKNOWN)
