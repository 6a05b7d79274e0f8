"""What names mean where an expression stands: a strategy's lets, params, pools, and variables.

Owns the compiled lets and hands out the slots of comprehension variables. Reads no expression for
its value: evaluate.py does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mserve.compiler.frame import Evaluator, memoise
from mserve.dsl.cost import MAX_NESTED
from mserve.dsl.dependencies import find_order
from mserve.dsl.inference import Inference
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import NOWHERE, Expr, Let, Name, Strategy
from mserve.dsl.traversal import parts
from mserve.dsl.types import WORKER, Type


class CompileError(Exception):
    """A strategy that passed the checks and still cannot be compiled; says which part of it."""


class Names:
    """The strategy's lets, params and pools. A let is compiled once, after those that it needs.

    Raises CompileError for lets that need themselves or nest too deep.
    """

    def __init__(
        self, strategy: Strategy, compile_let: Callable[[Expr, "Scope"], Evaluator]
    ) -> None:
        symbols = Symbols.of(strategy)
        self.params = frozenset(param.name for param in strategy.params)
        self.pools = frozenset(pool.name for pool in strategy.pools)
        self.let_names = tuple(let.name for let in strategy.lets)
        self.num_slots = 0
        self._compile = compile_let
        self._inference = Inference(symbols)
        self._lets = {let.name: let for let in strategy.lets}
        self._readers: dict[str, Evaluator] = {}
        self._depths: dict[str, int] = {}
        order = find_order(symbols)
        for cycle in order.cycles:
            raise CompileError(f"'{cycle[0][0].name}' is defined by itself")
        for reference in order.order:
            if reference.name in self._lets and not reference.route:
                self._compile_let(self._lets[reference.name])

    def _compile_let(self, let: Let) -> None:
        self._depths[let.name] = self._depth(let.value)
        if self._depths[let.name] > MAX_NESTED:
            raise CompileError(
                f"'{let.name}' and the bindings that it builds on nest more than {MAX_NESTED} deep"
            )
        self._inference.let(let)
        value = self._compile(let.value, Scope(self))
        self._readers[let.name] = memoise(self.let_names.index(let.name), value)

    def _depth(self, expr: Expr) -> int:
        """Calls inside each other that a value takes, bindings not evaluated yet included."""
        if isinstance(expr, Name):
            return 1 + self._depths.get(expr.name, 0)
        return 1 + max((self._depth(part) for part in parts(expr)), default=0)

    def has_let(self, name: str) -> bool:
        return name in self._lets

    def let(self, name: str) -> Evaluator:
        """Reads the let of this name."""
        return self._readers[name]

    def is_ratio(self, expr: Expr) -> bool:
        return self.type_of(expr).is_ratio

    def type_of(self, expr: Expr, variable: str = "") -> Type:
        """With its unit, if it is a number; `variable` is a worker there."""
        return self._inference.type_of(expr, {variable: WORKER})

    def type_of_name(self, name: str) -> Type:
        """Of a let or param."""
        return self._inference.type_of(Name(NOWHERE, name))

    def new_slot(self) -> int:
        self.num_slots += 1
        return self.num_slots - 1


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean where an expression stands: the strategy's, and comprehension variables."""

    names: Names
    variables: Mapping[str, int] = field(default_factory=dict)

    def with_variable(self, name: str) -> tuple["Scope", int]:
        slot = self.names.new_slot()
        return replace(self, variables={**self.variables, name: slot}), slot
