"""Lark's parse tree to the syntax tree: one method per grammar rule, named `_` and the rule's name.

Owns the few things a context-free grammar cannot say: a chain of comparisons is refused, a filtered
pool repeats its variable, a worker's position is a whole number. Knows nothing of names and types.
Recursive, so callers bound the nesting first (`deepest`).
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic, Label
from mserve.dsl.lalr import Branch, Token, branches_of, span_of
from mserve.dsl.literals import number_value, text_value
from mserve.dsl.rules.form import chained_comparison
from mserve.dsl.syntax import Expr, Span

Header = tuple[str, Span, str]  # name, its span, description


def deepest(root: Branch, limit: int) -> Branch | None:
    """A branch nested more than `limit` levels below `root`, if there is one (no recursion)."""
    level: list[Branch] = [root]
    for _ in range(limit):
        level = [child for item in level for child in branches_of(item)]
        if not level:
            return None
    return level[0]


class TreeBuilder:
    """Builds nodes; `diagnostics` collects what the grammar let through and is wrong all the same."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.diagnostics: list[Diagnostic] = []

    def build(self, item: Any) -> Any:
        method = cast("Callable[[Branch], Any]", getattr(self, f"_{item.data}"))
        return method(item)

    def _optional(self, item: Any) -> Any:
        return None if item is None else self.build(item)

    def _all(self, items: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(self.build(item) for item in items if item is not None)

    # --- declarations ------------------------------------------------------------------------

    def _strategy(self, item: Branch) -> Header:
        name, text = cast("list[Token]", item.children)
        return (*_named(name), text_value(text))

    def _param(self, item: Branch) -> syntax.Param:
        name, *values = item.children
        return syntax.Param(span_of(item), *_named(name), *self._all(values))

    def _pool(self, item: Branch) -> syntax.Pool:
        name, *settings = item.children
        return syntax.Pool(span_of(item), *_named(name), self._all(settings))

    def _let(self, item: Branch) -> syntax.Let:
        name, value = item.children
        return syntax.Let(span_of(item), *_named(name), self.build(value))

    def _def(self, item: Branch) -> syntax.Def:
        name, parameters, value = cast("list[Any]", item.children)
        tokens: list[Token] = [] if parameters is None else parameters.children
        return syntax.Def(
            span_of(item),
            *_named(name),
            tuple(str(token) for token in tokens),
            self.build(value),
            tuple(span_of(token) for token in tokens),
        )

    def _route(self, item: Branch) -> syntax.Route:
        name, guard, *steps = item.children
        return syntax.Route(span_of(item), *_named(name), self._optional(guard), self._all(steps))

    def _adapt(self, item: Branch) -> syntax.Adapt:
        every, *updates = item.children
        return syntax.Adapt(span_of(item), self.build(every), self._all(updates))

    def _slo(self, item: Branch) -> syntax.Slo:
        return syntax.Slo(span_of(item), self._all(item.children))

    def _limits(self, item: Branch) -> syntax.Limits:
        return syntax.Limits(span_of(item), self._all(item.children))

    # --- settings ----------------------------------------------------------------------------

    def _setting(self, item: Branch) -> syntax.Setting:
        name, value = item.children
        node = self.build(value)
        if isinstance(node, syntax.Call):
            node = _positional_variant(node)
        return syntax.Setting(span_of(item), *_named(name), node)

    def _update(self, item: Branch) -> syntax.Setting:
        name, value = item.children
        return syntax.Setting(span_of(item), *_named(name), self.build(value))

    def _variant(self, item: Branch) -> syntax.SettingCall:
        name, *settings = item.children
        return syntax.SettingCall(span_of(item), *_named(name), self._all(settings))

    # --- steps -------------------------------------------------------------------------------

    def _compute(self, item: Branch) -> syntax.Compute:
        return syntax.Compute(span_of(item), *self._all(item.children))

    def _reuse(self, item: Branch) -> syntax.Reuse:
        return syntax.Reuse(span_of(item), *self._all(item.children))

    def _replicate(self, item: Branch) -> syntax.Replicate:
        return syntax.Replicate(span_of(item), *self._all(item.children))

    def _generate(self, item: Branch) -> syntax.Generate:
        count, worker = item.children
        return syntax.Generate(span_of(item), self._optional(count), self.build(worker))

    def _prompt(self, item: Branch) -> syntax.PromptRange:
        begin, end = self._optional(item.children[0]) or (None, None)
        return syntax.PromptRange(span_of(item), begin, end)

    def _rest(self, item: Branch) -> syntax.Rest:
        return syntax.Rest(span_of(item))

    def _slice(self, item: Branch) -> tuple[Expr | None, Expr | None]:
        begin, end = item.children
        return self._optional(begin), self._optional(end)

    # --- tests -------------------------------------------------------------------------------

    def _test(self, item: Branch) -> syntax.Test:
        title, *items = cast("list[Any]", item.children)
        groups: dict[str, list[Any]] = {"cluster": [], "given": [], "expect": []}
        for entry in items:
            kind = str(entry.data).partition("_")[0]
            groups[kind].extend(entry.children if kind != "expect" else [entry])
        return syntax.Test(
            span_of(item),
            text_value(title),
            *(self._all(groups[kind]) for kind in ("cluster", "given", "expect")),
        )

    def _fact(self, item: Branch) -> syntax.Given:
        return syntax.Given(span_of(item), *self._all(item.children))

    def _expect_route(self, item: Branch) -> syntax.ExpectRoute:
        return syntax.ExpectRoute(span_of(item), *_named(item.children[0]))

    def _expect_sends(self, item: Branch) -> syntax.ExpectSends:
        bounds, *workers = cast("list[Branch]", item.children)
        sent = syntax.PromptRange(span_of(bounds), *self.build(bounds))
        return syntax.ExpectSends(span_of(item), sent, *self._all(workers))

    def _expect_value(self, item: Branch) -> syntax.ExpectValue:
        target, value = item.children
        expected = self._optional(value) or syntax.Boolean(span_of(item), True)
        return syntax.ExpectValue(span_of(item), self.build(target), expected)

    # --- expressions -------------------------------------------------------------------------

    def _conditional(self, item: Branch) -> syntax.Conditional:
        return syntax.Conditional(span_of(item), *self._all(item.children))

    def _binary(self, item: Branch) -> syntax.Binary:
        left, op, right = cast("list[Any]", item.children)
        return syntax.Binary(
            span_of(item), str(op), span_of(op), self.build(left), self.build(right)
        )

    def _chain(self, item: Branch) -> syntax.Binary:
        """A refused chain; it goes on as the first comparison, so that its parts are checked."""
        operands, ops = item.children[::2], cast("list[Token]", item.children[1::2])
        self.diagnostics.append(
            chained_comparison(
                self._text, [span_of(each) for each in operands], [span_of(op) for op in ops]
            )
        )
        left, right, *_ = operands
        return syntax.Binary(
            span_of(item), str(ops[0]), span_of(ops[0]), self.build(left), self.build(right)
        )

    def _unary(self, item: Branch) -> syntax.Unary:
        op, operand = item.children
        return syntax.Unary(span_of(item), str(op), self.build(operand))

    def _number(self, item: Branch) -> syntax.Number:
        text = str(item.children[0])
        return syntax.Number(span_of(item), *number_value(text), text)

    _ratio = _duration = _bytes = _number

    def _text_literal(self, item: Branch) -> syntax.Text:
        return syntax.Text(span_of(item), text_value(str(item.children[0])))

    def _true(self, item: Branch) -> syntax.Boolean:
        return syntax.Boolean(span_of(item), True)

    def _false(self, item: Branch) -> syntax.Boolean:
        return syntax.Boolean(span_of(item), False)

    def _name(self, item: Branch) -> syntax.Name:
        return syntax.Name(span_of(item), str(item.children[0]))

    def _call(self, item: Branch) -> syntax.Call:
        name, *arguments = item.children
        return syntax.Call(span_of(item), *_named(name), self._all(arguments))

    def _fold(self, item: Branch) -> syntax.Fold:
        op, value, variable, pool, where = item.children
        return syntax.Fold(
            span_of(item),
            *_named(op),
            self.build(value),
            str(variable),
            self.build(pool),
            self._optional(where),
            span_of(cast("Token", variable)),
        )

    def _filter(self, item: Branch) -> syntax.Filter:
        first, variable, pool, where = cast("list[Any]", item.children)
        if first != variable:
            self._refuse(
                first, f"a filtered pool repeats its variable: write `[{variable} for ...`"
            )
        return syntax.Filter(
            span_of(item),
            str(variable),
            self.build(pool),
            self._optional(where),
            span_of(variable),
        )

    def _worker_at(self, item: Branch) -> syntax.WorkerAt:
        pool, position = cast("list[Token]", item.children)
        index = number_value(str(position))[0]
        if not index.is_integer():
            self._refuse(position, "a worker's position is a whole number, counted from 0")
            index = 0
        return syntax.WorkerAt(span_of(item), str(pool), int(index))

    def _refuse(self, token: Token, message: str) -> None:
        self.diagnostics.append(Diagnostic("syntax", message, (Label(span_of(token)),)))


def _named(token: Any) -> tuple[str, Span]:
    return str(token), span_of(token)


def _positional_variant(call: syntax.Call) -> syntax.SettingCall:
    """In a setting, `peer(decode)` is a variant with a positional argument, not a call."""
    arguments = tuple(syntax.Setting(each.span, "", each.span, each) for each in call.args)
    return syntax.SettingCall(call.span, call.name, call.name_span, arguments)
