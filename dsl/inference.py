"""Infers the type of every expression and reports where types or units do not fit.

Expects resolved names: what refers to nothing is `UNKNOWN` and fits everywhere, so that one mistake
is reported once. Definitions are checked once on their own and once per combination of argument
types. Knows nothing of stages, ranges that join or settings.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from mserve.dsl import builtins, syntax, types
from mserve.dsl.builtins import Builtin, Role
from mserve.dsl.diagnostics import Diagnostic, Label
from mserve.dsl.findings import Findings
from mserve.dsl.hints import call_hint, function_hint, logic_hint, plays, role_hint, unobserved
from mserve.dsl.rules.units import wrong_call, wrong_type
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr
from mserve.dsl.types import BOOL, RATIO, UNKNOWN, UNTYPED, WORKER, Kind, Type

_LITERALS: Mapping[syntax.Unit, Type] = {
    syntax.Unit.NONE: UNTYPED,
    syntax.Unit.RATIO: RATIO,
    syntax.Unit.DURATION: types.DURATION,
    syntax.Unit.BYTES: types.BYTES,
}
_ORDERINGS = frozenset(["<", "<=", ">", ">="])
_LOGIC = frozenset(["and", "or"])

Variables = Mapping[str, Type]
NO_VARIABLES: Variables = {}


class Inference:
    """Types of one strategy's expressions; `diagnostics` collects what does not fit.

    Lets are inferred in the order they are asked for and remembered, so callers ask for those that
    others need first (dependencies.py gives the order) to keep the recursion flat. `given_up` names
    lets and defs that depend on themselves or are too deep: their type is unknown.
    """

    def __init__(self, symbols: Symbols, given_up: Set[str] = frozenset()) -> None:
        self._symbols = symbols
        self._lets: dict[str, Type] = {}
        self._given_up = given_up
        self._calls: dict[tuple[str, tuple[Type, ...]], Type] = {}
        self._findings = Findings(symbols)
        self._report = self._findings.report
        self._methods: Mapping[type, Callable[[Any, Variables], Type]] = {
            syntax.Number: lambda expr, _: _LITERALS[expr.unit],
            syntax.Text: lambda *_: types.TEXT,
            syntax.Boolean: lambda *_: BOOL,
            syntax.WorkerAt: lambda expr, _: replace(WORKER, pools=frozenset([expr.pool])),
            syntax.Name: self._name,
            syntax.Call: self._call,
            syntax.Fold: self._comprehension,
            syntax.Filter: self._comprehension,
            syntax.Unary: self._unary,
            syntax.Binary: self._binary,
            syntax.Conditional: self._conditional,
            syntax.PromptRange: self._prompt,
        }

    @property
    def diagnostics(self) -> list[Diagnostic]:
        return self._findings.diagnostics

    def type_of(self, expr: Expr, variables: Variables = NO_VARIABLES) -> Type:
        return self._methods[type(expr)](expr, variables)

    def let(self, let: syntax.Let) -> Type:
        if let.name in self._given_up:
            return UNKNOWN
        if let.name not in self._lets:
            self._lets[let.name] = self.type_of(let.value)
        return self._lets[let.name]

    def definition(self, definition: syntax.Def) -> None:
        """Checks a definition on its own: whatever its arguments are."""
        if definition.name in self._given_up:
            return
        unknown = dict.fromkeys(definition.parameters, UNKNOWN)
        self.type_of(definition.value, unknown)

    # --- what contexts demand ----------------------------------------------------------------

    def expect(
        self, expr: Expr, wanted: Type, variables: Variables = NO_VARIABLES, unit: str = ""
    ) -> Type:
        """Reports an expression that is not of the wanted type; gives the type it has.

        `unit` is the one that values have most often where it stands.
        """
        found = self.type_of(expr, variables)
        self._findings.demand(expr, found, wanted, unit)
        return found

    def expect_number(self, expr: Expr, variables: Variables = NO_VARIABLES) -> Type:
        return self._findings.demand_number(expr, self.type_of(expr, variables))

    def same_units(
        self, name: str, args: Sequence[Expr], variables: Variables = NO_VARIABLES
    ) -> Type:
        """The type that all arguments share."""
        first, joined = args[0], self.expect_number(args[0], variables)
        for arg in args[1:]:
            found = self.expect_number(arg, variables)
            unified = types.unify(joined, found)
            if unified is None:
                self._findings.mismatch((first, joined), (arg, found), name)
                return UNKNOWN
            if joined.untyped and not unified.untyped:
                first = arg
            joined = unified
        return joined

    def expect_bound(self, expr: Expr, variables: Variables = NO_VARIABLES) -> None:
        """A bound of a range: a count of tokens or a ratio of the prompt."""
        self._findings.demand_bound(expr, self.expect_number(expr, variables))

    def equal(
        self, left: Expr, right: Expr, variables: Variables = NO_VARIABLES, hint: str = ""
    ) -> None:
        """Two values that are compared, of any type; `hint` is for a right one of another kind."""
        sides = (left, self.type_of(left, variables)), (right, self.type_of(right, variables))
        self._unified(*sides, "==", hint)

    def _unified(
        self, left: tuple[Expr, Type], right: tuple[Expr, Type], relation: str, hint: str = ""
    ) -> Type:
        """The type of one or the other, UNKNOWN after reporting that they differ."""
        joined = types.unify(left[1], right[1])
        if joined is not None:
            return joined
        if left[1].is_number and right[1].is_number:
            self._findings.mismatch(left, right, relation)
        else:
            self._findings.wrong_kind(*right, left[1], hint)
        return UNKNOWN

    # --- names and calls ---------------------------------------------------------------------

    def _name(self, expr: syntax.Name, variables: Variables) -> Type:
        if expr.name in variables:
            return variables[expr.name]
        if expr.name in builtins.BARE:
            return builtins.BARE[expr.name].result or UNKNOWN
        declaration = self._symbols.names.get(expr.name)
        if isinstance(declaration, syntax.Let):
            return self.let(declaration)
        if isinstance(declaration, syntax.Param):
            return self.param(declaration)
        if isinstance(declaration, syntax.Pool):
            return replace(types.POOL, pools=frozenset([expr.name]))
        if declaration is not None or expr.name in builtins.NAMES:
            message = f"`{expr.name}` is a function, not a value"
            self._report(wrong_call(expr.span, message, help=function_hint(expr.name)))
        return UNKNOWN

    def param(self, param: syntax.Param) -> Type:
        """Default and ends of the range are of one unit."""
        default, low, high = (self.type_of(each) for each in (param.default, param.low, param.high))
        ends = types.unify(low, high)
        return (types.unify(default, ends) if ends else None) or ends or default

    def _call(self, expr: syntax.Call, variables: Variables) -> Type:
        definition = self._symbols.names.get(expr.name)
        if isinstance(definition, syntax.Def):
            return self._call_definition(expr, definition, variables)
        builtin = builtins.CALLS.get(expr.name)
        if builtin is not None:
            return self._call_builtin(expr, builtin, variables)
        if expr.name in builtins.FOLDS:
            self._report_unfolded(expr, variables)
            return UNKNOWN
        for arg in expr.args:
            self.type_of(arg, variables)
        if definition is not None or expr.name in variables or expr.name in builtins.NAMES:
            message, hint = f"`{expr.name}` is no function", call_hint(expr.name)
            self._report(wrong_call(expr.name_span, message, help=hint))
        return UNKNOWN

    def _report_unfolded(self, expr: syntax.Call, variables: Variables) -> None:
        """`argmin(load, decode)`: what looks at each worker of a pool, called like a function."""
        found = [self.type_of(part, variables) for arg in expr.args for part in unobserved(arg)]
        self._findings.unfolded(expr, found)

    def _call_definition(
        self, expr: syntax.Call, definition: syntax.Def, variables: Variables
    ) -> Type:
        arguments = tuple(self.type_of(arg, variables) for arg in expr.args)
        if definition.name in self._given_up or not self._findings.fits(
            expr, len(definition.parameters)
        ):
            return UNKNOWN
        key = definition.name, arguments
        if key not in self._calls:
            known = self._findings.keys
            named = dict(zip(definition.parameters, arguments, strict=True))
            self._calls[key] = self.type_of(definition.value, named)
            self._findings.label(self._findings.keys - known, Label(expr.span, "called here"))
        return self._calls[key]

    def _call_builtin(self, expr: syntax.Call, builtin: Builtin, variables: Variables) -> Type:
        if expr.name in builtins.FOLDS and len(expr.args) == 1:
            self._report_unfolded(expr, variables)
            return UNKNOWN
        if not self._findings.fits(expr, len(builtin.takes), builtin.variadic):
            return builtin.result or UNKNOWN
        if builtin.takes[0] is Role.NUMBER:
            return self.same_units(expr.name, expr.args, variables)
        pools: frozenset[str] = frozenset()
        for arg, wanted in zip(expr.args, builtin.takes, strict=True):
            pools |= self._argument(arg, wanted, variables).pools
        assert builtin.result is not None, "only arithmetic takes its type from its arguments"
        return replace(builtin.result, pools=pools) if builtin.result == WORKER else builtin.result

    def _argument(self, arg: Expr, wanted: Type | Role, variables: Variables) -> Type:
        if isinstance(wanted, Type):
            return self.expect(arg, wanted, variables)
        if wanted is Role.ROUTE and isinstance(arg, syntax.Name):
            return UNKNOWN  # a name of the routes' own namespace
        found = self.type_of(arg, variables)
        if found != UNKNOWN and not plays(arg, found, wanted):
            self._report(wrong_type(arg.span, wanted.value, str(found), role_hint(wanted)))
        return UNKNOWN

    # --- comprehensions ----------------------------------------------------------------------

    def _comprehension(self, expr: syntax.Fold | syntax.Filter, variables: Variables) -> Type:
        pool = self.expect(expr.pool, types.POOL, variables)
        worker = replace(WORKER, pools=pool.pools)
        inner = {**variables, expr.variable: worker}
        if expr.where is not None:
            self.expect(expr.where, BOOL, inner)
        if isinstance(expr, syntax.Filter):
            return replace(types.POOL, pools=pool.pools)
        builtin = builtins.FOLDS.get(expr.op)
        if builtin is None:
            self.type_of(expr.value, inner)
            return UNKNOWN
        value = self._fold_value(expr.value, builtin.takes[0], inner)
        if builtin.result is None:
            return value
        return worker if builtin.result == WORKER else builtin.result

    def _fold_value(self, expr: Expr, wanted: Type | Role, variables: Variables) -> Type:
        if wanted is Role.NUMBER:
            return self.expect_number(expr, variables)
        self._argument(expr, wanted, variables)
        return UNKNOWN

    # --- operators ---------------------------------------------------------------------------

    def _unary(self, expr: syntax.Unary, variables: Variables) -> Type:
        if expr.op == "not":
            self.expect(expr.operand, BOOL, variables)
            return BOOL
        return self.expect_number(expr.operand, variables)

    def _binary(self, expr: syntax.Binary, variables: Variables) -> Type:
        if expr.op in _LOGIC:
            return self._logic(expr, variables)
        if expr.op in ("==", "!="):
            self.equal(expr.left, expr.right, variables)
            return BOOL
        left = self.expect_number(expr.left, variables)
        right = self.expect_number(expr.right, variables)
        if expr.op in ("*", "/"):
            if UNKNOWN in (left, right):
                return UNKNOWN
            return types.multiply(left, right) if expr.op == "*" else types.divide(left, right)
        joined = self._unified((expr.left, left), (expr.right, right), expr.op)
        return BOOL if expr.op in _ORDERINGS else joined

    def _logic(self, expr: syntax.Binary, variables: Variables) -> Type:
        found = [self.type_of(side, variables) for side in (expr.left, expr.right)]
        if all(each.kind in (Kind.WORKER, Kind.POOL) for each in found):
            self._report(wrong_type(expr.span, str(BOOL), "two workers", logic_hint(expr)))
            return UNKNOWN
        self.expect(expr.left, BOOL, variables)
        self.expect(expr.right, BOOL, variables)
        return BOOL

    def _conditional(self, expr: syntax.Conditional, variables: Variables) -> Type:
        self.expect(expr.condition, BOOL, variables)
        then = self.type_of(expr.then, variables)
        otherwise = self.type_of(expr.otherwise, variables)
        return self._unified((expr.then, then), (expr.otherwise, otherwise), "if")

    def _prompt(self, expr: syntax.PromptRange, variables: Variables) -> Type:
        for bound in (expr.begin, expr.end):
            if bound is not None:
                self.expect_bound(bound, variables)
        return types.PROMPT
