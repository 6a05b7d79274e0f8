"""What the names of a strategy refer to: its declarations by name, and duplicates among them.

Params, pools, lets and defs share one namespace with the built-ins; routes have their own. Of two
declarations of one name the first counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mserve.dsl import builtins, syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules.naming import duplicate_name
from mserve.dsl.syntax import Span

Declaration = syntax.Param | syntax.Pool | syntax.Let | syntax.Def

_KINDS: Mapping[type, str] = {
    syntax.Param: "a param",
    syntax.Pool: "a pool",
    syntax.Let: "a binding",
    syntax.Def: "a definition",
    syntax.Route: "a route",
}


def kind_of(declaration: Declaration | syntax.Route) -> str:
    return _KINDS[type(declaration)]


@dataclass(frozen=True)
class Symbols:
    """`unread` are names of declarations with mistakes of form: they exist, nothing is known."""

    names: Mapping[str, Declaration]
    routes: Mapping[str, syntax.Route]
    unread: frozenset[str] = frozenset()

    @classmethod
    def of(cls, strategy: syntax.Strategy, unread: frozenset[str] = frozenset()) -> "Symbols":
        names: dict[str, Declaration] = {}
        for declaration in declarations(strategy):
            names.setdefault(declaration.name, declaration)
        routes: dict[str, syntax.Route] = {}
        for route in strategy.routes:
            routes.setdefault(route.name, route)
        return cls(names, routes, unread)

    @property
    def pools(self) -> list[str]:
        return [name for name, item in self.names.items() if isinstance(item, syntax.Pool)]


def declarations(strategy: syntax.Strategy) -> list[Declaration]:
    """Everything in the shared namespace, in text order."""
    found: list[Declaration] = [*strategy.params, *strategy.pools, *strategy.lets, *strategy.defs]
    return sorted(found, key=lambda each: each.span.start)


def check_duplicates(strategy: syntax.Strategy, symbols: Symbols) -> Iterator[Diagnostic]:
    for declaration in declarations(strategy):
        first = symbols.names[declaration.name]
        kind = kind_of(declaration)
        if declaration.name in builtins.NAMES:
            yield duplicate_name(declaration.name_span, declaration.name, kind, None, "")
        elif first is not declaration:
            where = declaration.name_span
            yield duplicate_name(where, declaration.name, kind, first.name_span, kind_of(first))
    for route in strategy.routes:
        earlier = symbols.routes[route.name]
        if earlier is not route:
            spans = route.name_span, earlier.name_span
            yield duplicate_name(spans[0], route.name, "a route", spans[1], "a route")
    titles: dict[str, Span] = {}
    for test in strategy.tests:
        title = Span(test.span.start, test.span.start + len("test"))
        if test.title in titles:
            yield duplicate_name(title, test.title, "a test", titles[test.title], "a test")
        titles.setdefault(test.title, title)
    for definition in strategy.defs:
        yield from _check_parameters(definition, symbols)


def _check_parameters(definition: syntax.Def, symbols: Symbols) -> Iterator[Diagnostic]:
    seen: dict[str, Span] = {}
    for name, span in zip(definition.parameters, definition.parameter_spans, strict=True):
        kind = "a parameter"
        if name in builtins.NAMES:
            yield duplicate_name(span, name, kind, None, "")
        elif name in symbols.names:
            other = symbols.names[name]
            yield duplicate_name(span, name, kind, other.name_span, kind_of(other))
        elif name in seen:
            yield duplicate_name(span, name, kind, seen[name], kind)
        seen.setdefault(name, span)
