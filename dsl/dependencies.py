"""In which order bindings and definitions can be looked at, and which depend on themselves.

Edges go from a `let` or `def` to those it names, and through `ttft(ROUTE)` to what that route's
steps name. The search keeps its own stack: chains may be longer than Python's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.references import Reference, plan_references, references
from mserve.dsl.rules.naming import recursive_definition
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Span
from mserve.dsl.traversal import walk


@dataclass
class Order:
    """`order`: each let, def and route after what it needs; `cycles`: those that need themselves."""

    order: list[Reference] = field(default_factory=list)
    cycles: list[list[tuple[Reference, Span]]] = field(default_factory=list)

    @property
    def cyclic(self) -> set[Reference]:
        return {reference for cycle in self.cycles for reference, _ in cycle}


def find_order(symbols: Symbols) -> Order:
    result = Order()
    done: set[Reference] = set()
    roots = [Reference(name) for name in symbols.names]
    for root in [*roots, *(Reference(name, route=True) for name in symbols.routes)]:
        if root not in done:
            _search(root, symbols, done, result)
    return result


def check_cycles(order: Order, symbols: Symbols) -> Iterator[Diagnostic]:
    for cycle in order.cycles:
        names = [(reference.name, span) for reference, span in cycle]
        yield recursive_definition(names, _variable_meant(cycle[0][0], symbols))


def _variable_meant(reference: Reference, symbols: Symbols) -> str:
    """The variable of a comprehension inside of which a binding names itself."""
    declared = None if reference.route else symbols.names[reference.name]
    if not isinstance(declared, syntax.Let):
        return ""
    for fold in walk(declared.value):
        if isinstance(fold, syntax.Fold) and any(
            isinstance(part, syntax.Name) and part.name == declared.name
            for part in walk(fold.value)
        ):
            return fold.variable
    return ""


def _search(root: Reference, symbols: Symbols, done: set[Reference], result: Order) -> None:
    path: dict[Reference, Iterator[Reference]] = {root: needs(root, symbols)}  # in order
    while path:
        current = next(reversed(path))
        needed = next(path[current], None)
        if needed is None:
            del path[current]
            done.add(current)
            result.order.append(current)
        elif needed in path:
            cycle = list(path)[list(path).index(needed) :]
            if not result.cyclic.intersection(cycle):
                result.cycles.append([(each, _span(each, symbols)) for each in cycle])
        elif needed not in done:
            path[needed] = needs(needed, symbols)


def needs(reference: Reference, symbols: Symbols) -> Iterator[Reference]:
    """What a let, def or route's plan names directly."""
    if reference.route:
        return plan_references(symbols.routes[reference.name], symbols)
    declaration = symbols.names[reference.name]
    if isinstance(declaration, (syntax.Let, syntax.Def)):
        return references(declaration.value, symbols)
    return iter(())


def _span(reference: Reference, symbols: Symbols) -> Span:
    if reference.route:
        return symbols.routes[reference.name].name_span
    return symbols.names[reference.name].name_span
