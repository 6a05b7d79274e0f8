"""Resolves every name of a strategy, with the scopes of definitions and comprehensions.

Reports names that refer to nothing and variables that hide others. Whether a name may stand where
it stands is for types.py, stages.py and settings.py to say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mserve.dsl import builtins, synonyms, syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.habits import Habit
from mserve.dsl.rules.naming import (
    comprehension_variable_shadows,
    unknown_name,
    unknown_variable,
)
from mserve.dsl.stages import builtin_of
from mserve.dsl.suggestion import nearest
from mserve.dsl.symbols import Symbols, kind_of
from mserve.dsl.syntax import Expr, Span
from mserve.dsl.traversal import parts, route_expressions, setting_values
from mserve.dsl.types import TEXT

_OF_EXPRESSIONS = frozenset(["binding, param or pool", "function", "choice or aggregate"])

_KEYWORDS = ("prompt", "true", "false")  # those that are values

MAX_COMPARISONS = 50

Locals = Mapping[str, Span]  # parameters and variables, with where they are introduced
NO_LOCALS: Locals = {}


def check_names(strategy: syntax.Strategy, symbols: Symbols) -> Iterator[Diagnostic]:
    resolver = _Resolver(symbols)
    for definition in strategy.defs:
        scope = dict(zip(definition.parameters, definition.parameter_spans, strict=True))
        yield from resolver.resolve(definition.value, scope)
    for expr in _closed_expressions(strategy):
        yield from resolver.resolve(expr, {})
    for adapt in strategy.adapts:
        for update in adapt.updates:
            if not isinstance(symbols.names.get(update.name), syntax.Param):
                params = [param.name for param in strategy.params]
                yield from resolver.missing(update.name_span, update.name, "param", params)
    for test in strategy.tests:
        yield from _check_test(test, resolver)


def _closed_expressions(strategy: syntax.Strategy) -> Iterator[Expr]:
    """All expressions outside definitions, tests and pools' settings."""
    for param in strategy.params:
        yield from (param.default, param.low, param.high)
    for let in strategy.lets:
        yield let.value
    for route in strategy.routes:
        yield from route_expressions(route)
    for adapt in strategy.adapts:
        yield adapt.every
        yield from _values(adapt.updates)


def _values(settings: tuple[syntax.Setting, ...]) -> Iterator[Expr]:
    for setting in setting_values(settings):
        assert not isinstance(setting.value, syntax.SettingCall), "setting_values gives leaves"
        yield setting.value


def _check_test(test: syntax.Test, resolver: "_Resolver") -> Iterator[Diagnostic]:
    for size in test.cluster:
        if not isinstance(resolver.symbols.names.get(size.name), syntax.Pool):
            yield from resolver.missing(size.name_span, size.name, "pool", resolver.symbols.pools)
    for given in test.givens:
        yield from resolver.resolve(given.target, {})
        if resolver.unquoted(given.target, given.value):
            yield _without_quotes(given.value)
        else:
            yield from resolver.resolve(given.value, {})
    for expectation in test.expectations:
        if isinstance(expectation, syntax.ExpectRoute):
            yield from resolver.resolve_route(expectation.route_span, expectation.route)
        elif isinstance(expectation, syntax.ExpectSends):
            for expr in (*parts(expectation.range), expectation.source, expectation.target):
                yield from resolver.resolve(expr, {})
        else:
            yield from resolver.resolve(expectation.target, {})
            yield from resolver.resolve(expectation.value, {})


def _without_quotes(expr: Expr) -> Diagnostic:
    assert isinstance(expr, syntax.Name), "only a name can lack its quotes"
    habit = Habit(f"there is no `{expr.name}`: a text stands in quotes", f'write `"{expr.name}"`')
    return unknown_name(expr.span, expr.name, "text", (), habit)


@dataclass(frozen=True)
class _Resolver:
    """`comparisons` bounds how many unknown names are compared with all that are known."""

    symbols: Symbols
    comparisons: Iterator[int] = field(default_factory=lambda: iter(range(MAX_COMPARISONS)))

    def resolve(self, expr: Expr, scope: Locals) -> Iterator[Diagnostic]:
        match expr:
            case syntax.Name():
                yield from self._resolve_name(expr, scope)
            case syntax.WorkerAt():
                yield from self._resolve_position(expr)
            case syntax.Call():
                yield from self._resolve_call(expr, scope)
            case syntax.Fold():
                if expr.op not in builtins.FOLDS:
                    known = list(builtins.FOLDS)
                    yield from self.missing(expr.op_span, expr.op, "choice or aggregate", known)
                yield from self._resolve_comprehension(expr, scope, (expr.value, expr.where))
            case syntax.Filter():
                yield from self._resolve_comprehension(expr, scope, (expr.where,))
            case syntax.Binary(op="==" | "!=") if self.unquoted(expr.left, expr.right, scope):
                yield from self.resolve(expr.left, scope)
                yield _without_quotes(expr.right)
            case _:
                for part in parts(expr):
                    yield from self.resolve(part, scope)

    def unquoted(self, left: Expr, right: Expr, scope: Locals = NO_LOCALS) -> bool:
        """Whether an unknown name is compared with a text of the request."""
        builtin = builtin_of(left)
        known = (
            synonyms.NAMES.keys()
            | scope.keys()
            | self.symbols.names.keys()
            | builtins.NAMES
            | self.symbols.unread
        )
        is_text = builtin is not None and builtin.result == TEXT
        return is_text and isinstance(right, syntax.Name) and right.name not in known

    def _resolve_position(self, expr: syntax.WorkerAt) -> Iterator[Diagnostic]:
        declared = self.symbols.names.get(expr.pool)
        span = Span(expr.span.start, expr.span.start + len(expr.pool))
        if declared is None:
            yield from self.missing(span, expr.pool, "pool", self.symbols.pools)
        elif not isinstance(declared, syntax.Pool):
            habit = Habit(f"`{expr.pool}` is {kind_of(declared)}, not a pool", "leave `[...]` out")
            yield unknown_name(span, expr.pool, "pool", (), habit)

    def resolve_route(self, span: Span, name: str) -> Iterator[Diagnostic]:
        if name not in self.symbols.routes:
            yield from self.missing(span, name, "route", list(self.symbols.routes))

    def missing(self, span: Span, name: str, kind: str, known: list[str]) -> Iterator[Diagnostic]:
        if name not in self.symbols.unread:
            habit = synonyms.NAMES.get(name) if kind in _OF_EXPRESSIONS else None
            compared = known if next(self.comparisons, None) is not None else ()
            listed = () if kind in _OF_EXPRESSIONS else known
            yield unknown_name(span, name, kind, compared, habit, listed)

    def _resolve_name(self, expr: syntax.Name, scope: Locals) -> Iterator[Diagnostic]:
        name = expr.name
        if name not in scope and name not in self.symbols.names and name not in builtins.NAMES:
            known = [*scope, *self.symbols.names, *builtins.BARE, *_KEYWORDS]
            if name in self.symbols.routes:
                hint = f"write `expect route {name}`, or `ttft({name})` for its predicted time"
                habit = Habit(f"`{name}` is a route, not a value", hint)
                yield unknown_name(expr.span, name, "binding", (), habit)
                return
            if scope and name not in self.symbols.unread and nearest(name, known) is None:
                variable = list(scope)[-1]
                yield unknown_variable(expr.span, name, variable, scope[variable])
                return
            yield from self.missing(expr.span, name, "binding, param or pool", known)

    def _resolve_call(self, expr: syntax.Call, scope: Locals) -> Iterator[Diagnostic]:
        known_call = expr.name in builtins.NAMES or expr.name in self.symbols.names
        if not known_call and expr.name not in scope:
            defs = [n for n, item in self.symbols.names.items() if isinstance(item, syntax.Def)]
            known = [*builtins.CALLS, *builtins.FOLDS, *builtins.BARE, *defs]
            yield from self.missing(expr.name_span, expr.name, "function", known)
        args = expr.args
        if expr.name == "ttft" and len(args) == 1 and isinstance(args[0], syntax.Name):
            yield from self.resolve_route(args[0].span, args[0].name)
            return
        for arg in args:
            yield from self.resolve(arg, scope)

    def _resolve_comprehension(
        self, expr: syntax.Fold | syntax.Filter, scope: Locals, inside: tuple[Expr | None, ...]
    ) -> Iterator[Diagnostic]:
        name, span = expr.variable, expr.variable_span
        yield from self._check_hidden(name, span, scope)
        yield from self.resolve(expr.pool, scope)
        for part in inside:
            if part is not None:
                yield from self.resolve(part, {**scope, name: span})

    def _check_hidden(self, name: str, span: Span, scope: Locals) -> Iterator[Diagnostic]:
        if name in scope:
            yield comprehension_variable_shadows(span, name, scope[name], "a variable or parameter")
        elif name in self.symbols.names:
            hidden = self.symbols.names[name]
            yield comprehension_variable_shadows(span, name, hidden.name_span, kind_of(hidden))
        elif name in builtins.NAMES:
            yield comprehension_variable_shadows(span, name, None, "a built-in")
