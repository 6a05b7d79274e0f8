"""Replaces every call of a `def` by its body: later stages see expressions without definitions.

A definition is a pure expression, so putting the arguments in the parameters' places keeps its
meaning; comprehension variables of the body are renamed, so that they capture nothing of them.
Expects checked trees (no recursion, right number of arguments).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from itertools import count
from typing import Any, TypeVar

from mserve.dsl.syntax import Call, Def, Expr, Filter, Fold, Name, Node, Strategy

N = TypeVar("N", bound=Node)


def expand_definitions(strategy: Strategy) -> Strategy:
    """The same strategy without `defs` and without calls of them."""
    definitions = {definition.name: definition for definition in strategy.defs}
    if not definitions:
        return strategy
    return map_children(replace(strategy, defs=()), _Expansion(definitions).expand)


def map_children(node: N, function: Callable[[Any], Any]) -> N:
    """The node with `function` applied to each of its direct children."""
    changes = {}
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Node):
            changes[field.name] = function(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Node):
            changes[field.name] = tuple(function(child) for child in value)
    return replace(node, **changes) if changes else node


class _Expansion:
    def __init__(self, definitions: Mapping[str, Def]) -> None:
        self._definitions = definitions
        self._numbers: Iterator[int] = count(1)

    def expand(self, node: N) -> N | Expr:
        expanded = map_children(node, self.expand)
        if isinstance(expanded, Call) and expanded.name in self._definitions:
            definition = self._definitions[expanded.name]
            arguments = dict(zip(definition.parameters, expanded.args, strict=True))
            body: Expr = self._put(definition.value, arguments)
            return self.expand(body)
        return expanded

    def _put(self, node: Any, arguments: Mapping[str, Expr]) -> Any:
        """The node with the arguments in the places of their names."""
        if isinstance(node, Name):
            return arguments.get(node.name, node)
        if isinstance(node, (Fold, Filter)):
            return self._put_in_comprehension(node, arguments)
        return map_children(node, lambda child: self._put(child, arguments))

    def _put_in_comprehension(self, node: Fold | Filter, arguments: Mapping[str, Expr]) -> Any:
        fresh = f"{node.variable}'{next(self._numbers)}"  # no name of the language has a quote
        inner = {**arguments, node.variable: Name(node.span, fresh)}
        changes = {
            "variable": fresh,
            "pool": self._put(node.pool, arguments),
            "where": None if node.where is None else self._put(node.where, inner),
        }
        if isinstance(node, Fold):
            changes["value"] = self._put(node.value, inner)
        return replace(node, **changes)
