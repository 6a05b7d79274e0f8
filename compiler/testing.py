"""Runs the tests that stand in a strategy: each decides once on a reference cluster.

Knows how expectations are compared; how a situation is built is givens.py's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mserve.compiler.evaluate import compile_range
from mserve.compiler.frame import Frame, Value
from mserve.compiler.givens import GivenError, situation_of
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.plan import BindingValue, Decision, Plan, PrepRecv, RemoteSend
from mserve.compiler.reasons import Reasons
from mserve.compiler.scope import Scope
from mserve.compiler.spelling import spell
from mserve.dsl.syntax import (
    Boolean,
    Expectation,
    ExpectRoute,
    ExpectSends,
    ExpectValue,
    Test,
)

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class TestResult:
    """`failures` are sentences, one for each expectation that was not met; `decision` is None where
    no route was possible or the situation itself makes no sense."""

    test: Test
    failures: tuple[str, ...]
    decision: Decision | None
    bindings: Mapping[str, BindingValue] = field(default_factory=dict)  # those evaluated
    asked: frozenset[str] = frozenset()  # of these, those that only the expectations needed

    @property
    def title(self) -> str:
        return self.test.title

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True, slots=True)
class Send:
    """Tokens `[begin, end)` of the prompt really move: what the receiver has cached is left out."""

    source: str
    target: str
    begin: int
    end: int

    def __str__(self) -> str:
        return f"[{self.begin}:{self.end}] from {spell(self.source)} to {spell(self.target)}"


def run_tests(strategy: CompiledStrategy) -> list[TestResult]:
    """One result per test, in the order of the text."""
    return [_run(strategy, test) for test in strategy.tree.tests]


def untested_routes(strategy: CompiledStrategy, results: list[TestResult]) -> tuple[str, ...]:
    reached = {result.decision.plan.route for result in results if result.decision}
    return tuple(route.name for route in strategy.routes if route.name not in reached)


def _run(strategy: CompiledStrategy, test: Test) -> TestResult:
    try:
        situation = situation_of(strategy, test.cluster, test.givens)
    except GivenError as error:
        return TestResult(test, (str(error),), None)
    frame = situation.frame(strategy)
    decision = strategy.decide_in(frame)
    needed = strategy.bindings(frame)
    check = _Check(strategy, frame, decision)
    failures = tuple(sentence for each in test.expectations if (sentence := check.failure(each)))
    bindings = strategy.bindings(frame)
    return TestResult(
        test, failures, decision, bindings, frozenset(bindings.keys() - needed.keys())
    )


class _Check:
    """Compares the expectations of one test with what was decided."""

    def __init__(self, strategy: CompiledStrategy, frame: Frame, decision: Decision | None) -> None:
        self._source = strategy.checked.source
        self._scope = Scope(strategy.names)
        self._reasons = Reasons(strategy, frame)
        self._frame = frame
        self._decision = decision

    def failure(self, expected: Expectation) -> str:
        """A sentence, or nothing where the expectation is met."""
        if isinstance(expected, ExpectRoute):
            return self._route(expected)
        if isinstance(expected, ExpectValue):
            return self._value(expected)
        return self._sends(expected)

    def _route(self, expected: ExpectRoute) -> str:
        route = self._decision.plan.route if self._decision else "none"
        if route == expected.route:
            return ""
        return f"expected route {expected.route}, got {route if self._decision else 'no route'}"

    def _value(self, expected: ExpectValue) -> str:
        value = self._reasons.value
        got, wanted = value(expected.target), value(expected.value)
        if _equal(got, wanted):
            return ""
        if isinstance(expected.value, Boolean) and expected.value.value:
            return self._condition(expected, got)
        text = self._source.slice(expected.target.span)
        return f"expected {text} = {self._spelled(expected, wanted)}, got {self._spelled(expected, got)}"

    def _condition(self, expected: ExpectValue, got: Value) -> str:
        text = self._source.slice(expected.target.span)
        if got is None:
            return f"expected {text}, but something in it is missing"
        parts = self._reasons.of(expected.target)
        values = [part.values or f"{part.text} is {str(part.holds).lower()}" for part in parts]
        return f"expected {text}, got {', '.join(values)}"

    def _spelled(self, expected: ExpectValue, value: Value) -> str:
        names = self._scope.names
        target, wanted = names.type_of(expected.target), names.type_of(expected.value)
        return spell(value, wanted if target.untyped else target)

    def _sends(self, expected: ExpectSends) -> str:
        begin, end = compile_range(expected.range, self._scope)
        value = self._reasons.value
        source, target = value(expected.source), value(expected.target)
        wanted = Send(str(source), str(target), begin(self._frame), end(self._frame))
        sends = sends_of(self._decision.plan, self._frame) if self._decision else []
        if wanted in sends:
            return ""
        got = ", ".join(map(str, sends)) or "none"
        return f"expected sends {wanted}, got {got}"


def sends_of(plan: Plan, frame: Frame) -> list[Send]:
    tickets = {step.ticket: step.worker for step in plan.steps if isinstance(step, PrepRecv)}
    cached, end = frame.view.cached, plan.num_tokens  # a handoff sends decoded tokens, too
    return [
        Send(step.worker, target, max(step.begin, cached(target)), min(step.end, end))
        for step in plan.steps
        if isinstance(step, RemoteSend)
        for target in (tickets[ticket] for ticket in step.to)
    ]


def _equal(got: Value, wanted: Value) -> bool:
    if isinstance(got, (int, float)) and isinstance(wanted, (int, float)):
        return math.isclose(got, wanted, rel_tol=0, abs_tol=_TOLERANCE)
    return bool(got == wanted)
