"""Checks of tests in the language: what they give and expect, against the cluster they describe.

Knows which observations a test may fix; running tests is the compiler's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.dsl import builtins, syntax
from mserve.dsl.builtins import Role
from mserve.dsl.constants import value_of
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.inference import Inference
from mserve.dsl.rules.routes import self_transfer
from mserve.dsl.rules.scenarios import (
    test_inconsistent_given,
    test_proves_nothing,
    test_unknown_worker,
)
from mserve.dsl.rules.settings import bad_setting
from mserve.dsl.rules.units import not_available_here
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr, Span
from mserve.dsl.traversal import evaluated_in_tests, walk
from mserve.dsl.types import COUNT, RATIO, WORKER, Type
from mserve.dsl.unparse import expression, shown

_ONCE = "leave one of them out"


def check_tests(
    strategy: syntax.Strategy, symbols: Symbols, inference: Inference
) -> Iterator[Diagnostic]:
    for test in strategy.tests:
        yield from _TestChecker(test, symbols, inference).check()


def givable(expr: Expr) -> Type | None:
    """The type of an observation that a test may fix: `tokens(prompt)`, `load(decode[0])`."""
    if isinstance(expr, syntax.Name):
        bare = builtins.BARE.get(expr.name)
        return None if bare is None else bare.result
    if not isinstance(expr, syntax.Call):
        return None
    builtin = builtins.CALLS.get(expr.name)
    if builtin is None or builtin.takes not in ((Role.PROMPT,), (Role.QUOTED,), (WORKER,)):
        return None
    by_position = all(
        isinstance(arg, syntax.WorkerAt | syntax.PromptRange | syntax.Text) for arg in expr.args
    )
    return builtin.result if by_position else None


@dataclass
class _TestChecker:
    test: syntax.Test
    symbols: Symbols
    inference: Inference

    def check(self) -> Iterator[Diagnostic]:
        yield from self._check_cluster()
        for given in self.test.givens:
            yield from self._check_given(given)
        yield from self._check_consistency()
        if not self.test.expectations:
            start = self.test.span.start
            yield test_proves_nothing(Span(start, start + len("test")))
        for expr in self._expressions():
            yield from self._check_workers(expr)
        for expectation in self.test.expectations:
            yield from self._check_expectation(expectation)

    @property
    def _names(self) -> frozenset[str]:
        return builtins.NAMES | self.symbols.names.keys()

    def _expressions(self) -> Iterator[Expr]:
        for given in self.test.givens:
            yield from (given.target, given.value)
        yield from evaluated_in_tests(self.test)

    # --- the cluster -------------------------------------------------------------------------

    def _check_cluster(self) -> Iterator[Diagnostic]:
        for size in self.test.cluster:
            assert not isinstance(size.value, syntax.SettingCall), "the grammar says `= EXPR`"
            self.inference.expect(size.value, COUNT)
            workers = value_of(size.value)
            if workers is None:
                yield not_available_here(
                    size.value.span, shown(size.value), "only a constant can stand here"
                )
            elif workers % 1 or workers < 0:
                yield bad_setting(size.value.span, size.name, "a whole number of workers")

    def _check_workers(self, expr: Expr) -> Iterator[Diagnostic]:
        for part in walk(expr):
            if not isinstance(part, syntax.WorkerAt) or part.pool not in self.symbols.names:
                continue
            size, declared = self._size_of(part.pool)
            if size is not None and part.index >= size:
                worker = f"{part.pool}[{part.index}]"
                yield test_unknown_worker(part.span, worker, size, declared)

    def _size_of(self, pool: str) -> tuple[int | None, Span | None]:
        for size in self.test.cluster:
            if size.name == pool:
                return _whole(size.value), size.span
        return self._declared_size(pool)

    def _declared_size(self, pool: str) -> tuple[int | None, Span | None]:
        """What the pool's setting `workers` says; else one."""
        declared = self.symbols.names.get(pool)
        settings = declared.settings if isinstance(declared, syntax.Pool) else ()
        for setting in settings:
            if setting.name == "workers":
                workers = _whole(setting.value)
                known = workers is not None and workers >= 1
                return workers if known else None, setting.span
        return 1, None

    # --- what is given -----------------------------------------------------------------------

    def _check_given(self, given: syntax.Given) -> Iterator[Diagnostic]:
        declared = isinstance(given.target, syntax.Name) and isinstance(
            self.symbols.names.get(given.target.name), (syntax.Let, syntax.Param)
        )
        wanted = givable(given.target)
        found = self.inference.type_of(given.target)
        if wanted is None and not declared:
            if found.kind is not found.kind.UNKNOWN:
                yield self._not_givable(given)
            return
        if not isinstance(given.value, syntax.WorkerAt | syntax.Text | syntax.Boolean):
            yield from self._check_constant(given.value)
        if found.kind is WORKER.kind and not isinstance(given.value, syntax.WorkerAt):
            self.inference.equal(given.target, given.value, hint=_by_position(found))
        else:
            self.inference.expect(given.value, found)

    def _not_givable(self, given: syntax.Given) -> Diagnostic:
        """With the workers by position that the author may have meant."""
        target, reason, hint = (
            given.target,
            "a test fixes what is observed, bindings and params",
            "",
        )
        if isinstance(target, syntax.Name) and target.name in self.symbols.pools:
            hint = (
                f"the number of its workers is `cluster {target.name} = {expression(given.value)}`"
            )
        elif isinstance(target, syntax.Call) and len(target.args) == 1:
            pools = self.inference.type_of(target.args[0]).pools
            pool = min(pools, default="POOL")
            if builtins.CALLS[target.name].takes == (WORKER,):
                reason = "in a test a worker is named by its position"
                hint = f"write `given {target.name}({pool}[0]) = {expression(given.value)}`"
        return not_available_here(target.span, shown(target), reason, hint)

    def _check_constant(self, expr: Expr) -> Iterator[Diagnostic]:
        if isinstance(expr, syntax.Name) and expr.name not in self._names:
            return  # reported as unknown
        if value_of(expr) is None:
            reason = "a test gives constants: literals with `+ - * /`, or a worker by position"
            yield not_available_here(expr.span, shown(expr), reason)

    def _check_consistency(self) -> Iterator[Diagnostic]:
        seen: list[syntax.Given] = []
        prompt = next((each for each in self.test.givens if _is_prompt_length(each)), None)
        for given in self.test.givens:
            earlier = next((each for each in seen if each.target == given.target), None)
            if earlier is not None:
                yield test_inconsistent_given(
                    given.span, "this is given twice", earlier.span, _ONCE
                )
            seen.append(given)
            yield from _check_value(given, prompt)

    # --- what is expected --------------------------------------------------------------------

    def _check_expectation(self, expectation: syntax.Expectation) -> Iterator[Diagnostic]:
        if isinstance(expectation, syntax.ExpectValue):
            found = self.inference.type_of(expectation.target)
            hint = _by_position(found) if found.kind is WORKER.kind else ""
            self.inference.equal(expectation.target, expectation.value, hint=hint)
        elif isinstance(expectation, syntax.ExpectSends):
            self.inference.type_of(expectation.range)
            self.inference.expect(expectation.source, WORKER)
            self.inference.expect(expectation.target, WORKER)
            if expectation.source == expectation.target:
                spans = expectation.target.span, expectation.source.span
                yield self_transfer(*spans, "a worker sends nothing to itself")


def _whole(value: Expr | syntax.SettingCall) -> int | None:
    """The number a constant expression stands for, if that is a whole one."""
    number = None if isinstance(value, syntax.SettingCall) else value_of(value)
    return None if number is None or number % 1 else int(number)


def _by_position(worker: Type) -> str:
    return f"name a worker by its position: `{min(worker.pools, default='POOL')}[0]`"


def _is_prompt_length(given: syntax.Given) -> bool:
    return isinstance(given.target, syntax.Call) and given.target.name == "tokens"


def _check_value(given: syntax.Given, prompt: syntax.Given | None) -> Iterator[Diagnostic]:
    """Values of observations that no cluster can show."""
    kind, value = givable(given.target), value_of(given.value)
    if kind is None or value is None or not isinstance(given.target, syntax.Call | syntax.Name):
        return
    name = given.target.name
    if value < 0 and name != "priority":
        yield test_inconsistent_given(
            given.span, f"`{name}` is never negative", None, "give 0 or more"
        )
    elif kind == RATIO and value > 1 and name in builtins.SHARES:
        yield test_inconsistent_given(given.span, f"`{name}` is a share: at most 100%", None, "")
    elif name == "cached":
        yield from _check_cached(given, value, prompt)


def _check_cached(
    given: syntax.Given, value: float, prompt: syntax.Given | None
) -> Iterator[Diagnostic]:
    length = builtins.UNGIVEN["tokens"] if prompt is None else value_of(prompt.value)
    if length is None or value <= length:
        return
    message = "more is cached of the prompt than it is long"
    if prompt is None:
        message += f": {length} tokens where its length is not given"
    hint = f"give its length: `tokens(prompt) = {value:g}`"
    other = None if prompt is None else prompt.span
    yield test_inconsistent_given(given.span, message, other, hint)
