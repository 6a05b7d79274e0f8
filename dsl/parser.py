"""Text to syntax tree, or to everything in it that cannot be read.

A text without mistakes is parsed in one go; otherwise recovery.py reads declaration by declaration.
Owns the bound on nesting. Knows nothing of names, types and what a strategy means.
"""

from dataclasses import dataclass, field
from typing import Any

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.lalr import Automaton, Branch, Stopped, Token, branches_of, span_of
from mserve.dsl.recovery import Reading, read_declarations
from mserve.dsl.rules.form import syntax as syntax_error
from mserve.dsl.source import Source
from mserve.dsl.token_kinds import CLOSING, OPENING
from mserve.dsl.tokens import tokenize
from mserve.dsl.tree import Header, TreeBuilder, deepest

MAX_NESTING = 100

_COLLECTIONS: dict[type[syntax.Node], str] = {
    syntax.Param: "params",
    syntax.Pool: "pools",
    syntax.Let: "lets",
    syntax.Def: "defs",
    syntax.Route: "routes",
    syntax.Adapt: "adapts",
    syntax.Slo: "slos",
    syntax.Limits: "limits",
    syntax.Test: "tests",
}


@dataclass(frozen=True)
class Parsed:
    """What could be read.

    `strategy` holds the declarations without a mistake of form (all of them if there are no
    `diagnostics`); `unread` names those that could not be read, so that uses of them are not
    reported as unknown.
    """

    strategy: syntax.Strategy
    diagnostics: tuple[Diagnostic, ...] = ()
    unread: frozenset[str] = field(default_factory=frozenset)


def parse(source: Source) -> Parsed:
    """Never raises for any text."""
    reading = _read(source)
    builder = TreeBuilder(source.text)
    problems = list(reading.problems)
    unread = set(reading.unread)
    header: Header = ("", syntax.NOWHERE, "")
    declarations: list[syntax.Node] = []
    for branch in reading.branches:
        too_deep = deepest(branch, MAX_NESTING)
        if too_deep is not None:
            problems.append(_nested_too_deep(span_of(too_deep)))
            unread.update(str(each) for each in branch.children[:1] if isinstance(each, Token))
        elif branch.data == "strategy":
            header = builder.build(branch)
        else:
            declarations.append(builder.build(branch))
    strategy = _assemble(source, header, declarations)
    return Parsed(strategy, (*problems, *builder.diagnostics), frozenset(unread))


def _read(source: Source) -> Reading:
    lexed = tokenize(source)
    if lexed.stopped:
        return Reading([], lexed.problems)
    lexed.problems.extend(_too_many_brackets(lexed.tokens))
    if not lexed.problems:
        tree = _parse_whole(lexed.tokens)
        if tree is not None:
            return Reading(branches_of(tree), [])
    return read_declarations(source, lexed.tokens, lexed.problems)


def _parse_whole(tokens: list[Token]) -> Branch | None:
    """The tree of a file without a mistake of form, else None."""
    automaton = Automaton("start")
    try:
        automaton.feed(tokens)
        return automaton.finish(tokens[-1] if tokens else None)
    except Stopped:
        return None


def _too_many_brackets(tokens: list[Token]) -> list[Diagnostic]:
    """Brackets around brackets leave no trace in the tree, so they are counted before."""
    depth = 0
    for token in tokens:
        depth += (token.type in OPENING) - (token.type in CLOSING)
        if depth > MAX_NESTING:
            return [_nested_too_deep(span_of(token))]
    return []


def _nested_too_deep(span: syntax.Span) -> Diagnostic:
    message = f"this nests more than {MAX_NESTING} levels deep"
    return syntax_error(span, message, help="name a part of it with `let`")


def _assemble(source: Source, header: Header, declarations: list[syntax.Node]) -> syntax.Strategy:
    groups: dict[str, list[Any]] = {name: [] for name in _COLLECTIONS.values()}
    for declaration in declarations:
        groups[_COLLECTIONS[type(declaration)]].append(declaration)
    collections = {name: tuple(nodes) for name, nodes in groups.items()}
    name, name_span, description = header
    span = syntax.Span(0, len(source.text))
    return syntax.Strategy(span, name, name_span, description, **collections)
