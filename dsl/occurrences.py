"""Every name in a strategy with what it means there: the index that hover, go to definition,
rename and highlighting share.

Built from what could be read of a text, so a text with mistakes has one, too. Knows scopes; types
come from inference.py, wording from meanings.py.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from mserve.dsl import builtins, meanings, settings, syntax
from mserve.dsl.inference import Inference
from mserve.dsl.lalr import Token, span_of
from mserve.dsl.meanings import Meaning
from mserve.dsl.references import route_asked
from mserve.dsl.settings import Choice, Specification
from mserve.dsl.symbols import Declaration, Symbols
from mserve.dsl.syntax import Expr, Span
from mserve.dsl.traversal import parts, route_expressions
from mserve.dsl.types import POOL, UNKNOWN, WORKER, Type

# Parameters and variables in scope: what each means, and its type.
Scope = Mapping[str, tuple[Meaning, Type]]
NO_LOCALS: Scope = {}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A name as written, without parentheses around it."""

    span: Span
    meaning: Meaning


@dataclass(frozen=True)
class Words:
    """The names among a text's tokens; the tree knows only expressions' places."""

    tokens: list[Token]

    @classmethod
    def of(cls, tokens: list[Token]) -> "Words":
        return cls([token for token in tokens if token.type == "NAME"])

    def first_in(self, span: Span) -> Span:
        starts = bisect_left(self.tokens, span.start, key=lambda token: span_of(token).start)
        return span_of(self.tokens[starts])


class Occurrences:
    """Collects the names of one strategy. `doc_of` gives the author's comment on a declaration."""

    def __init__(
        self,
        symbols: Symbols,
        inference: Inference,
        words: Words,
        doc_of: Callable[[Span], str],
    ) -> None:
        self._symbols = symbols
        self._inference = inference
        self._words = words
        self._doc_of = doc_of
        self._declared: dict[int, Meaning] = {}

    def of(self, strategy: syntax.Strategy) -> list[Occurrence]:
        """In text order."""
        found = [*self._declarations(strategy), *self._blocks(strategy)]
        return sorted(found, key=lambda each: each.span.start)

    def meaning_of(self, item: Declaration | syntax.Route) -> Meaning:
        known = self._declared.get(id(item))
        if known is None:
            known = meanings.of_declaration(item, self._type_of(item), self._doc_of(item.span))
            self._declared[id(item)] = known
        return known

    def _type_of(self, item: Declaration | syntax.Route) -> Type:
        match item:
            case syntax.Let():
                return self._inference.let(item)
            case syntax.Param():
                return self._inference.param(item)
            case _:
                return UNKNOWN

    # --- where names stand -------------------------------------------------------------------

    def _declarations(self, strategy: syntax.Strategy) -> Iterator[Occurrence]:
        if strategy.name:
            yield Occurrence(strategy.name_span, meanings.of_strategy(strategy))
        for param in strategy.params:
            yield self._named(param)
            for expr in (param.default, param.low, param.high):
                yield from self._expression(expr)
        for let in strategy.lets:
            yield self._named(let)
            yield from self._expression(let.value)
        for definition in strategy.defs:
            yield self._named(definition)
            yield from self._definition(definition)
        for route in strategy.routes:
            yield self._named(route)
            for expr in route_expressions(route):
                yield from self._expression(expr)

    def _named(self, item: Declaration | syntax.Route) -> Occurrence:
        return Occurrence(item.name_span, self.meaning_of(item))

    def _definition(self, definition: syntax.Def) -> Iterator[Occurrence]:
        scope: dict[str, tuple[Meaning, Type]] = {}
        spans = zip(definition.parameters, definition.parameter_spans, strict=True)
        for name, span in spans:
            meaning = meanings.of_parameter(name, definition, span)
            scope.setdefault(name, (meaning, UNKNOWN))
            yield Occurrence(span, meaning)
        yield from self._expression(definition.value, scope)

    def _blocks(self, strategy: syntax.Strategy) -> Iterator[Occurrence]:
        for pool in strategy.pools:
            yield self._named(pool)
            yield from self._settings(pool.settings, settings.POOL)
        for slo in strategy.slos:
            yield from self._settings(slo.goals, settings.SLO)
        for limits in strategy.limits:
            yield from self._settings(limits.limits, settings.LIMITS)
        for adapt in strategy.adapts:
            yield from self._expression(adapt.every)
            yield from self._assignments(adapt.updates)
        for test in strategy.tests:
            yield from self._test(test)

    def _assignments(self, items: tuple[syntax.Setting, ...]) -> Iterator[Occurrence]:
        """`NAME = VALUE` where NAME is declared: a param in `adapt`, a pool in `cluster`."""
        for item in items:
            yield from self._reference(item.name_span, item.name)
            assert not isinstance(item.value, syntax.SettingCall), "the grammar says `= EXPR`"
            yield from self._expression(item.value)

    def _test(self, test: syntax.Test) -> Iterator[Occurrence]:
        yield from self._assignments(test.cluster)
        for given in test.givens:
            yield from self._expression(given.target)
            yield from self._expression(given.value)
        for expectation in test.expectations:
            if isinstance(expectation, syntax.ExpectRoute):
                yield from self._route_reference(expectation.route_span, expectation.route)
                continue
            if isinstance(expectation, syntax.ExpectSends):
                exprs: tuple[Expr, ...] = (*parts(expectation.range), expectation.source)
            else:
                exprs = (expectation.value,)
            for expr in (*exprs, expectation.target):
                yield from self._expression(expr)

    # --- settings ----------------------------------------------------------------------------

    def _settings(
        self, items: tuple[syntax.Setting, ...], known: Mapping[str, Specification]
    ) -> Iterator[Occurrence]:
        for item in items:
            specification = known.get(item.name)
            if specification is None:
                continue
            yield Occurrence(item.name_span, meanings.of_setting(item.name, specification))
            if isinstance(specification, Choice):
                yield from self._choice(item.value, specification)

    def _choice(self, value: Expr | syntax.SettingCall, choice: Choice) -> Iterator[Occurrence]:
        if (
            not isinstance(value, syntax.Name | syntax.SettingCall)
            or value.name not in choice.words
        ):
            return
        span = self._words.first_in(value.span)
        yield Occurrence(span, meanings.of_word(value.name, choice))
        if isinstance(value, syntax.SettingCall):
            yield from self._settings(value.args, choice.words[value.name].settings)
            for argument in value.args:
                if not argument.name and isinstance(argument.value, syntax.Name):
                    yield from self._expression(argument.value)

    # --- expressions -------------------------------------------------------------------------

    def _expression(self, expr: Expr, scope: Scope = NO_LOCALS) -> Iterator[Occurrence]:
        """Recursive: the parser bounds the nesting."""
        match expr:
            case syntax.Name():
                yield from self._reference(self._words.first_in(expr.span), expr.name, scope)
            case syntax.WorkerAt():
                yield from self._reference(self._words.first_in(expr.span), expr.pool)
            case syntax.Call():
                yield from self._call(expr, scope)
            case syntax.Fold() | syntax.Filter():
                yield from self._comprehension(expr, scope)
            case _:
                for part in parts(expr):
                    yield from self._expression(part, scope)

    def _call(self, expr: syntax.Call, scope: Scope) -> Iterator[Occurrence]:
        if expr.name in builtins.CALLS:
            builtin = builtins.CALLS[expr.name]
            yield Occurrence(expr.name_span, meanings.of_builtin(builtin))
        else:
            yield from self._reference(expr.name_span, expr.name, scope)
        route = route_asked(expr)
        if route is not None:
            yield from self._route_reference(self._words.first_in(route.span), route.name)
            return
        for argument in expr.args:
            yield from self._expression(argument, scope)

    def _comprehension(
        self, expr: syntax.Fold | syntax.Filter, scope: Scope
    ) -> Iterator[Occurrence]:
        types = {name: found for name, (_, found) in scope.items()}
        pools = self._inference.expect(expr.pool, POOL, types).pools
        worker = replace(WORKER, pools=pools)
        variable = meanings.of_variable(expr.variable, worker, expr.variable_span)
        inner = {**scope, expr.variable: (variable, worker)}
        if isinstance(expr, syntax.Fold):
            if expr.op in builtins.FOLDS:
                yield Occurrence(expr.op_span, meanings.of_builtin(builtins.FOLDS[expr.op]))
            yield from self._expression(expr.value, inner)
        else:
            yield Occurrence(self._words.first_in(expr.span), variable)
        yield Occurrence(expr.variable_span, variable)
        yield from self._expression(expr.pool, scope)
        if expr.where is not None:
            yield from self._expression(expr.where, inner)

    def _reference(self, span: Span, name: str, scope: Scope = NO_LOCALS) -> Iterator[Occurrence]:
        declaration = self._symbols.names.get(name)
        if name in scope:
            yield Occurrence(span, scope[name][0])
        elif declaration is not None:
            yield Occurrence(span, self.meaning_of(declaration))
        elif name in builtins.BARE:
            yield Occurrence(span, meanings.of_builtin(builtins.BARE[name]))

    def _route_reference(self, span: Span, name: str) -> Iterator[Occurrence]:
        if name in self._symbols.routes:
            yield Occurrence(span, self.meaning_of(self._symbols.routes[name]))
