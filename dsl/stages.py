"""Whether what an expression uses is known where it stands.

Constants take literals with `+ - * /`; `adapt` also params and what is the same for all requests;
`let`, guards and steps everything but workers by position; choices that leave traces stand alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mserve.dsl import builtins, syntax
from mserve.dsl.builtins import Builtin, Stage
from mserve.dsl.dependencies import Order
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.references import inside
from mserve.dsl.rules.units import not_available_here
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr
from mserve.dsl.traversal import evaluated_in_tests, parts, step_expressions
from mserve.dsl.unparse import expression, shown


def check_stages(strategy: syntax.Strategy, symbols: Symbols, order: Order) -> Iterator[Diagnostic]:
    stages = _Stages(symbols, _request_bound(symbols, order))
    for param in strategy.params:
        for expr in (param.default, param.low, param.high):
            yield from stages.check_constant(expr)
    for let in strategy.lets:
        yield from stages.check_decision(let.value, whole=True)
    for definition in strategy.defs:
        yield from stages.check_decision(definition.value)
    for route in strategy.routes:
        yield from _check_route(route, stages)
    for adapt in strategy.adapts:
        yield from _check_adapt(adapt, stages)
    for test in strategy.tests:
        for expr in evaluated_in_tests(test):
            yield from stages.check_choices(expr)


def _check_route(route: syntax.Route, stages: "_Stages") -> Iterator[Diagnostic]:
    if route.guard is not None:
        yield from stages.check_decision(route.guard)
    for step in route.steps:
        for expr in step_expressions(step):
            yield from stages.check_decision(expr, whole=expr is step.worker)


def _check_adapt(adapt: syntax.Adapt, stages: "_Stages") -> Iterator[Diagnostic]:
    yield from stages.check_constant(adapt.every)
    for update in adapt.updates:
        assert not isinstance(update.value, syntax.SettingCall), "the grammar says `= EXPR`"
        yield from stages.check_adapt(update.value)


def builtin_of(expr: Expr) -> Builtin | None:
    match expr:
        case syntax.Name():
            return builtins.BARE.get(expr.name)
        case syntax.Call():
            return builtins.CALLS.get(expr.name)
        case syntax.Fold():
            return builtins.FOLDS.get(expr.op)
        case _:
            return None


def _request_bound(symbols: Symbols, order: Order) -> dict[str, str]:
    """Definitions that look at the request, each with what they use of it."""
    bound: dict[str, str] = {}
    for reference in order.order:
        declaration = None if reference.route else symbols.names[reference.name]
        if not isinstance(declaration, syntax.Def):
            continue
        for part in inside(declaration.value):
            used = _use_of_request(part, symbols, bound)
            if used:
                bound[declaration.name] = used
                break
    return bound


def _use_of_request(part: Expr, symbols: Symbols, bound: dict[str, str]) -> str | None:
    """What of one request a part (without those inside it) depends on, as the author wrote it."""
    builtin = builtin_of(part)
    if builtin is not None and builtin.stage in (Stage.REQUEST, Stage.DISPATCH):
        return f"`{builtin.name}`"
    if isinstance(part, syntax.PromptRange):
        return "the prompt"
    if isinstance(part, syntax.Name) and isinstance(symbols.names.get(part.name), syntax.Let):
        return f"the binding `{part.name}`"
    if isinstance(part, syntax.Call) and part.name in bound:
        return f"`{part.name}`"
    return None


@dataclass(frozen=True)
class _Stages:
    symbols: Symbols
    request_bound: dict[str, str] = field(default_factory=dict)

    def check_constant(self, expr: Expr) -> Iterator[Diagnostic]:
        """Reports the outermost parts that are no literals and no arithmetic on them."""
        match expr:
            case syntax.Number() | syntax.Text() | syntax.Boolean():
                return
            case syntax.Unary(op="-"):
                yield from self.check_constant(expr.operand)
            case syntax.Binary(op="+" | "-" | "*" | "/"):
                yield from self.check_constant(expr.left)
                yield from self.check_constant(expr.right)
            case syntax.Name() if expr.name not in builtins.NAMES | self.symbols.names.keys():
                return  # reported as unknown
            case _:
                yield not_available_here(
                    expr.span,
                    shown(expr),
                    "only a constant can stand here: literals with `+ - * /`",
                )

    def check_adapt(self, expr: Expr) -> Iterator[Diagnostic]:
        """Reports the outermost parts that depend on one request."""
        used = _use_of_request(expr, self.symbols, self.request_bound)
        if used is None:
            for part in parts(expr):
                yield from self.check_adapt(part)
            yield from self._check_position(expr)
            return
        through = ""
        if isinstance(expr, syntax.Call) and expr.name in self.request_bound:
            through = f" through {self.request_bound[expr.name]}"
        yield not_available_here(
            expr.span, used, f"depends on one request{through}; `adapt` runs between requests"
        )

    def check_decision(self, expr: Expr, whole: bool = False) -> Iterator[Diagnostic]:
        """`whole`: a choice that leaves traces may be all of the expression."""
        for part in inside(expr):
            yield from self._check_position(part)
        yield from self.check_choices(expr, whole)

    def check_choices(self, expr: Expr, whole: bool = False) -> Iterator[Diagnostic]:
        for part in inside(expr):
            builtin = builtin_of(part)
            if builtin is None or builtin.stage is not Stage.DISPATCH or (whole and part is expr):
                continue
            if isinstance(part, syntax.Call) and len(part.args) != len(builtin.takes):
                continue  # reported as a call with too few or too many arguments
            yield not_available_here(
                part.span,
                f"`{builtin.name}`",
                "picks anew each time, so it stands alone: as a whole `let`, or behind `on`, "
                "`from` or `to`",
                help=f"give it a name: `let picked = {expression(part)}`",
            )

    def _check_position(self, expr: Expr) -> Iterator[Diagnostic]:
        if isinstance(expr, syntax.WorkerAt) and expr.pool in self.symbols.pools:
            yield not_available_here(
                expr.span,
                f"`{expr.pool}[{expr.index}]`",
                "positions are for tests",
                help=f"choose a worker: `argmin(load(w) for w in {expr.pool})`",
            )
