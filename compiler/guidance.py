"""Sentences about givens that make no sense: what is wrong, and what was probably meant.

Knows what a strategy declares and what can be observed; reads and decides nothing.
"""

from collections.abc import Iterable

from mserve.compiler.observe import REQUEST_OBSERVATIONS, TIMES, WORKER_OBSERVATIONS
from mserve.compiler.pipeline import CompiledStrategy
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Call, Expr, Name, Number, PromptRange, Unit
from mserve.dsl.traversal import walk
from mserve.dsl.unparse import expression

OF_REQUESTS = frozenset(REQUEST_OBSERVATIONS) | {"max_tokens"}
OF_WORKERS = frozenset(WORKER_OBSERVATIONS) | frozenset(TIMES) | {"cached"}
CALLS = OF_WORKERS | {"tokens", "header", "ttft"}


class Guidance:
    """About one strategy."""

    def __init__(self, strategy: CompiledStrategy) -> None:
        self._strategy = strategy
        self._pools = tuple(pool.name for pool in strategy.pools)
        self._routes = tuple(route.name for route in strategy.routes)

    def unknown_pool(self, name: str) -> str:
        return f"there is no pool '{name}'" + self._or(name, self._pools, "; the strategy has: ")

    def unknown_route(self, name: str) -> str:
        return f"there is no route '{name}'" + self._or(name, self._routes, "; the strategy has: ")

    def unknown_param(self, name: str) -> str:
        if self._strategy.names.has_let(name):
            return f"'{name}' is a binding, no param: it is fixed with --given"
        params = tuple(self._strategy.params)
        if not params:
            return f"there is no param '{name}': the strategy has none"
        return f"there is no param '{name}'" + self._or(name, params, "; the strategy has: ")

    def unknown_name(self, name: str) -> str:
        """Of a given that is a bare name."""
        if name in self._pools:
            return f"'{name}' is a pool; how many workers it has is said by `cluster`"
        if name in self._routes:
            return f"'{name}' is a route; what can be given is its prediction, `ttft({name})`"
        if name in CALLS:
            return f"'{name}' needs to be told of what: `{self._example(name)}`"
        known = (*self._strategy.names.let_names, *self._strategy.params, *sorted(OF_REQUESTS))
        return f"'{name}' is neither a binding, a param nor an observation" + self._or(name, known)

    def unknown_call(self, name: str) -> str:
        words = f"'{name}' is not an observation that can be given"
        return words + self._or(name, sorted(CALLS))

    def argument(self, target: Call, arg: Expr) -> str:
        """Of an observation of a worker: what stands there instead of a worker by position."""
        text, name = expression(target), arg.name if isinstance(arg, Name) else ""
        if name in self._pools:
            return (
                f"`{text}`: '{name}' is a pool; name one of its workers: `{_at(target, arg, name)}`"
            )
        example = _at(target, arg, self._pool_of(name))
        if self._strategy.names.has_let(name):
            return f"`{text}`: '{name}' is chosen by the strategy; name a worker: `{example}`"
        if isinstance(arg, PromptRange) or not name:
            return f"`{text}`: a worker is named by its position: `{example}`"
        return f"`{text}`: there is no worker '{name}'; they are named by position: `{example}`"

    def arguments(self, target: Call) -> str:
        return f"`{expression(target)}` is written `{self._example(target.name)}`"

    def value(self, given: Expr, value: Expr) -> str:
        """Of what stands right of the `=`."""
        text, name = expression(given), value.name if isinstance(value, Name) else ""
        if name in self._pools:
            return f"'{name}' is a pool; name one of its workers: `{text} = {name}[0]`"
        words = f"`{expression(value)}` is no value that can be given: that is a constant"
        return f'{words}, like `2s`, `10%` or `"text"`, or a worker, like `{self._pools[0]}[0]`'

    def param_range(self, name: str, value: Expr) -> str:
        """Of a value that lies outside."""
        words = f"{self._strategy.range_of(name)}, not {expression(value)}"
        param = self._strategy.params[name]
        if isinstance(value, Number) and value.unit is Unit.NONE:
            percents = value.value / 100
            if param.low <= percents <= param.high <= 1:
                return f"{words}; did you mean `{expression(value)}%`?"
        return words

    def _or(self, name: str, known: Iterable[str], otherwise: str = "") -> str:
        near = nearest(name, known)
        if near is not None:
            return f"; did you mean '{near}'?"
        return otherwise and otherwise + ", ".join(known)

    def _pool_of(self, name: str) -> str:
        """Where the worker that is called so is likely to come from."""
        lets = {let.name: let for let in self._strategy.tree.lets}
        parts = walk(lets[name].value) if name in lets else ()
        found = (part.name for part in parts if isinstance(part, Name))
        return next((each for each in found if each in self._pools), self._pools[0])

    def _example(self, name: str) -> str:
        worker = f"{self._pools[0]}[0]"
        examples = {
            "tokens": "tokens(prompt)",
            "header": 'header("x-name")',
            "ttft": f"ttft({self._routes[0]})",
            "transfer_time": f"transfer_time(1000, {worker}, {self._pools[-1]}[0])",
        }
        timed = f"{name}(1000, {worker})" if name in TIMES else f"{name}({worker})"
        return examples.get(name, timed)


def _at(target: Call, arg: Expr, pool: str) -> str:
    """The observation with a worker of the pool in the place of `arg`."""
    args = [f"{pool}[0]" if each is arg else expression(each) for each in target.args]
    return f"{target.name}({', '.join(args)})"
