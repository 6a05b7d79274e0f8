"""What an expression costs at most, before it runs: its size with definitions put in, and its work.

Work counts one per part, a comprehension's inside once per worker (of a large cluster). Bounded are
work, size (compilation puts definitions in), how deep definitions build on each other, and how deep
evaluation nests when it meets bindings, and plans asked for with `ttft`, that are not evaluated yet.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mserve.dsl import syntax
from mserve.dsl.dependencies import Order
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.references import references, route_asked
from mserve.dsl.rules.routes import too_expensive
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr, Span
from mserve.dsl.traversal import parts, route_expressions, step_expressions

_PREDICTION = 10  # calls between `ttft` and the expressions of its route

NUM_WORKERS = 64
MAX_WORK = 1_000_000
MAX_SIZE = 10_000
MAX_DEPTH = 100
MAX_NESTED = 300
"""Calls inside each other: what evaluation can nest without running out of stack."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`depth` is that of the expression with definitions put in, `nested` that of its evaluation;
    `uses`: per parameter of a definition, how often its argument is put in and evaluated."""

    size: int = 1
    depth: int = 1
    work: int = 1
    uses: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    nested: int = 1

    def __add__(self, other: "Cost") -> "Cost":
        uses = dict(self.uses)
        for name, (size, work) in other.uses.items():
            before = uses.get(name, (0, 0))
            uses[name] = before[0] + size, before[1] + work
        return Cost(
            self.size + other.size,
            max(self.depth, other.depth),
            self.work + other.work,
            uses,
            max(self.nested, other.nested),
        )

    def times(self, size: int, work: int) -> "Cost":
        """Put in `size` times, evaluated `work` times."""
        uses = {name: (s * size, w * work) for name, (s, w) in self.uses.items()}
        return Cost(self.size * size, self.depth, self.work * work, uses, self.nested)

    def below(self, depth: int) -> "Cost":
        return Cost(self.size, self.depth + depth, self.work, self.uses, self.nested + depth)

    def excess(self) -> str:
        """Which bound it exceeds, in words; empty if none."""
        if self.depth > MAX_DEPTH:
            return f"with definitions put in, this nests more than {MAX_DEPTH} levels deep"
        if self.nested > MAX_NESTED:
            return f"with the bindings that it builds on, this nests more than {MAX_NESTED} deep"
        if self.size > MAX_SIZE:
            return f"with definitions put in, this has more than {MAX_SIZE} parts"
        if self.work > MAX_WORK:
            return f"with {NUM_WORKERS} workers this takes more than {MAX_WORK} evaluations"
        return ""


@dataclass(frozen=True)
class Costs:
    """`refused` are the definitions and bindings that are too expensive, or build on such."""

    diagnostics: list[Diagnostic]
    refused: set[str]


def find_costs(strategy: syntax.Strategy, symbols: Symbols, order: Order) -> Costs:
    meter = _Meter(symbols)
    costs = Costs([], set())
    cyclic = order.cyclic
    for reference in order.order:
        if reference.route:
            meter.add_route(symbols.routes[reference.name])
            continue
        declaration = symbols.names[reference.name]
        if not isinstance(declaration, syntax.Let | syntax.Def) or reference in cyclic:
            continue
        if not costs.refused.isdisjoint(
            each.name for each in references(declaration.value, symbols)
        ):
            costs.refused.add(declaration.name)
            continue
        cost = meter.cost_of(declaration.value)
        excess = cost.excess()
        if excess:
            costs.diagnostics.append(too_expensive(declaration.name_span, excess))
            costs.refused.add(declaration.name)
        elif isinstance(declaration, syntax.Def):
            meter.definitions[declaration.name] = declaration, cost
        else:
            meter.nested[declaration.name] = cost.nested
    for span, expr in _evaluated(strategy):
        excess = meter.cost_of(expr).excess()
        if excess:
            costs.diagnostics.append(too_expensive(span, excess))
    return costs


def _evaluated(strategy: syntax.Strategy) -> Iterator[tuple[Span, Expr]]:
    for route in strategy.routes:
        for expr in route_expressions(route):
            yield expr.span, expr
    for adapt in strategy.adapts:
        for update in adapt.updates:
            assert not isinstance(update.value, syntax.SettingCall), "the grammar says `= EXPR`"
            yield update.span, update.value


@dataclass
class _Meter:
    symbols: Symbols
    definitions: dict[str, tuple[syntax.Def, Cost]] = field(default_factory=dict)
    nested: dict[str, int] = field(default_factory=dict)  # by binding
    plans: dict[str, int] = field(default_factory=dict)  # nested, by route

    def add_route(self, route: syntax.Route) -> None:
        costs = (self.cost_of(expr) for step in route.steps for expr in step_expressions(step))
        self.plans[route.name] = max((cost.nested for cost in costs), default=0)

    def cost_of(self, expr: Expr) -> Cost:
        match expr:
            case syntax.Name():
                nested = 1 + self.nested.get(expr.name, 0)
                return Cost(uses={expr.name: (1, 1)}, nested=nested)
            case syntax.Fold() | syntax.Filter():
                inside = sum(
                    (self.cost_of(each) for each in parts(expr) if each is not expr.pool), Cost()
                )
                return (inside.times(1, NUM_WORKERS) + self.cost_of(expr.pool)).below(1)
            case syntax.Call() if expr.name in self.definitions:
                return self._call(expr)
            case syntax.Call() if (route := route_asked(expr)) is not None:
                return Cost(nested=_PREDICTION + self.plans.get(route.name, 0))
            case _:
                return sum((self.cost_of(part) for part in parts(expr)), Cost()).below(1)

    def _call(self, expr: syntax.Call) -> Cost:
        """The definition's body with the arguments in the places of its parameters."""
        definition, body = self.definitions[expr.name]
        total = Cost(body.size, body.depth, body.work, nested=body.nested)
        for name, argument in zip(definition.parameters, expr.args, strict=False):
            size, work = body.uses.get(name, (0, 0))
            total += self.cost_of(argument).times(size, work).below(body.depth)
        return total
