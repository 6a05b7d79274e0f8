"""A situation in the language's own words: `cluster decode = 4`, `given load(decode[0]) = 2s`.

Turns what tests and the command line say into a reference cluster, fixed bindings and params.
Problems are GivenError, a sentence for whoever wrote it; how it is worded is guidance.py's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mserve.compiler.frame import Frame, Value
from mserve.compiler.guidance import CALLS, OF_REQUESTS, OF_WORKERS, Guidance
from mserve.compiler.observe import TIMES
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.reference import Fact, ReferenceCluster
from mserve.compiler.settings import ConstantError, constant, number_of
from mserve.dsl.check import check_text
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.syntax import Call, Expr, Given, Name, Setting, SettingCall, Test, Text, WorkerAt

MAX_WORKERS = 1000
_OF_TESTS_ONLY = frozenset(["not-available-here", "test-proves-nothing"])
MAX_TOKENS = 1_000_000_000


class GivenError(Exception):
    """A given, cluster size or param value that makes no sense for this strategy; a sentence."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A cluster and a request, with bindings, params and predictions fixed by hand."""

    cluster: ReferenceCluster
    bindings: dict[str, Value] = field(default_factory=dict)
    params: dict[str, float] = field(default_factory=dict)
    forecasts: dict[str, float] = field(default_factory=dict)

    def frame(self, strategy: CompiledStrategy) -> Frame:
        frame = strategy.new_frame(self.cluster)
        frame.params = {**strategy.values, **self.params}
        frame.forecasts.update(self.forecasts)
        for name, value in self.bindings.items():
            frame.lets[strategy.names.let_names.index(name)] = value
        return frame


def situation_of(
    strategy: CompiledStrategy, cluster: Iterable[Setting], givens: Iterable[Given]
) -> Situation:
    """Unlisted pools have as many workers as their setting `workers` says, or one.

    Raises GivenError.
    """
    return _Reader(strategy, cluster).read(givens)


# --- from a command line -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Option:
    """How an option is called, the line of a test that it stands for, and how it is written."""

    flag: str
    keyword: str
    form: str
    example: str

    def parsed(self, text: str) -> Test:
        """Raises GivenError."""
        if "=" not in text:
            raise GivenError(f"{self._typed(text)}: write {self.form}, like {self.example}")
        source = Source.from_text(f'strategy situation ""\ntest "" {{\n{self.keyword} {text}\n}}')
        parsed = parse(source)
        for problem in parsed.diagnostics:
            ends_early = "`}`" in problem.message and "}" not in text  # it met our own brace
            reason = "it ends too early" if ends_early else problem.message
            help_ = f" ({problem.help})" if problem.help else ""
            raise GivenError(f"{self._typed(text)}: {reason}{help_}")
        (test,) = parsed.strategy.tests
        alien = test.givens if self.keyword == "cluster" else test.cluster
        if test.expectations or alien:
            raise GivenError(f"{self._typed(text)}: only {self.form} can stand here")
        return test

    def _typed(self, text: str) -> str:
        return f"{self.flag} `{text}`" if text.strip() else f"{self.flag} is empty"


_CLUSTER = _Option("--cluster", "cluster", "POOL=COUNT", "--cluster decode=4")
_GIVEN = _Option("--given", "given", "NAME = VALUE", "--given 'tokens(prompt) = 4000'")
_SET = _Option("--set", "given", "PARAM=VALUE", "--set tail=20%")


def situation_from_text(
    strategy: CompiledStrategy,
    cluster: Sequence[str] = (),
    givens: Sequence[str] = (),
    params: Sequence[str] = (),
) -> Situation:
    """The same from a command line: `decode=4`, `tokens(prompt) = 4000`, `tail=20%`.

    Raises GivenError.
    """
    sizes = [size for text in cluster for size in _CLUSTER.parsed(text).cluster]
    fixed = [given for text in givens for given in _GIVEN.parsed(text).givens]
    changed = [given for text in params for given in _SET.parsed(text).givens]
    for given in changed:
        if not isinstance(given.target, Name):
            raise GivenError("--set is for params; what is observed is fixed with --given")
        if given.target.name not in strategy.params:
            raise GivenError(f"--set: {Guidance(strategy).unknown_param(given.target.name)}")
    situation = situation_of(strategy, sizes, [*fixed, *changed])
    _check(strategy, situation, [*givens, *params])
    return situation


def _check(strategy: CompiledStrategy, situation: Situation, givens: Sequence[str]) -> None:
    """Raises GivenError for what the checks would say of a test in the strategy's own text: wrong
    units, shares over 100%, more cached than there is. What only a test may not give is let pass."""
    before = strategy.checked.source.text
    pools = situation.cluster.pools.items()
    lines = [f"cluster {pool} = {len(workers)}" for pool, workers in pools]
    lines += [f"given {text}" for text in givens]
    checked = check_text("\n".join([before, 'test "given on the command line" {', *lines, "}"]))
    for problem in checked.diagnostics:
        if problem.span.start >= len(before) and problem.rule not in _OF_TESTS_ONLY:
            text = checked.source.slice(problem.span)
            help_ = f" ({problem.help})" if problem.help else ""
            raise GivenError(f"`{text}`: {problem.message}{help_}")


# --- what is given -----------------------------------------------------------------------------


class _Reader:
    """Reads the givens of one situation."""

    def __init__(self, strategy: CompiledStrategy, cluster: Iterable[Setting]) -> None:
        self._strategy = strategy
        self._guidance = Guidance(strategy)
        self._pools = self._read_cluster(cluster)
        self._facts: dict[Fact, object] = {}
        self._situation = Situation(ReferenceCluster(self._pools, self._facts))

    def read(self, givens: Iterable[Given]) -> Situation:
        for given in givens:
            self._read(given)
        for name, what in (("tokens", "a prompt has"), ("max_tokens", "an answer may have")):
            number = self._facts.get((name, ()), 1)
            if not isinstance(number, (int, float)) or number < 1 or number % 1:
                raise GivenError(f"{what} a whole number of tokens, at least one")
            if number > MAX_TOKENS:
                raise GivenError(f"{what} at most {MAX_TOKENS:,} tokens here")
        return self._situation

    def _read_cluster(self, cluster: Iterable[Setting]) -> dict[str, tuple[str, ...]]:
        sizes = {pool.name: pool.workers for pool in self._strategy.pools}
        for setting in cluster:
            if setting.name not in sizes:
                raise GivenError(self._guidance.unknown_pool(setting.name))
            size = _number(setting.value, f"`cluster {setting.name}` takes a number of workers")
            if not 0 <= size <= MAX_WORKERS or size != int(size):
                raise GivenError(f"pool '{setting.name}' can have 0 to {MAX_WORKERS} workers")
            sizes[setting.name] = int(size)
        return {pool: tuple(f"{pool}-{i}" for i in range(size)) for pool, size in sizes.items()}

    def _read(self, given: Given) -> None:
        target = given.target
        if isinstance(target, Name):
            self._read_name(target.name, given)
        elif isinstance(target, Call) and target.name == "ttft":
            self._situation.forecasts[self._route(target)] = self._finite(given, any_size=True)
        elif isinstance(target, Call):
            self._facts[self._fact(target)] = self._value(given)
        else:
            raise GivenError("a given is an observation or the name of a binding")

    def _read_name(self, name: str, given: Given) -> None:
        strategy, situation = self._strategy, self._situation
        if name in strategy.names.let_names:
            situation.bindings[name] = self._value(given)
        elif name in strategy.params:
            situation.params[name] = self._param(name, given)
        elif name in OF_REQUESTS:
            self._facts[(name, ())] = self._value(given)
        else:
            raise GivenError(self._guidance.unknown_name(name))

    def _param(self, name: str, given: Given) -> float:
        param, value = self._strategy.params[name], self._finite(given, any_size=True)
        if not param.low <= value <= param.high:
            raise GivenError(self._guidance.param_range(name, given.value))
        return value

    def _route(self, target: Call) -> str:
        if len(target.args) != 1:
            raise GivenError(self._guidance.arguments(target))
        name = target.args[0].name if isinstance(target.args[0], Name) else ""
        if name not in {route.name for route in self._strategy.routes}:
            raise GivenError(self._guidance.unknown_route(name))
        return name

    def _fact(self, target: Call) -> Fact:
        if target.name == "tokens":
            return ("tokens", ())
        if target.name not in CALLS:
            raise GivenError(self._guidance.unknown_call(target.name))
        if target.name == "header":
            if len(target.args) != 1 or not isinstance(target.args[0], Text):
                raise GivenError(self._guidance.arguments(target))
            return (f"header:{target.args[0].value.lower()}", ())
        assert target.name in OF_WORKERS, "what remains looks at workers"
        first = 1 if target.name in TIMES else 0  # a number of tokens stands before
        return (
            target.name,
            tuple(self._argument(target, arg, i >= first) for i, arg in enumerate(target.args)),
        )

    def _argument(self, target: Call, arg: Expr, is_worker: bool) -> Value:
        if isinstance(arg, WorkerAt):
            return self._worker(arg)
        if is_worker:
            raise GivenError(self._guidance.argument(target, arg))
        return _number(arg, f"{self._guidance.arguments(target)}: first a number of tokens")

    def _value(self, given: Given) -> Value:
        if isinstance(given.value, WorkerAt):
            return self._worker(given.value)
        try:
            value = constant(given.value)
        except ConstantError:
            raise GivenError(self._guidance.value(given.target, given.value)) from None
        return value if isinstance(value, (str, bool)) else self._finite(given)

    def _finite(self, given: Given, *, any_size: bool = False) -> float:
        value = _number(given.value, self._guidance.value(given.target, given.value))
        if not any_size and not math.isfinite(value):
            raise GivenError("what is given is finite")
        return value

    def _worker(self, expr: WorkerAt) -> str:
        if expr.pool not in self._pools:
            raise GivenError(self._guidance.unknown_pool(expr.pool))
        workers = self._pools[expr.pool]
        if expr.index >= len(workers):
            raise GivenError(
                f"there is no worker {expr.pool}[{expr.index}] in a cluster with "
                f"{expr.pool} = {len(workers)}; positions count from 0"
            )
        return workers[expr.index]


def _number(value: Expr | SettingCall, otherwise: str) -> float:
    """Raises GivenError with the sentence `otherwise`."""
    try:
        return number_of(value)
    except ConstantError:
        raise GivenError(otherwise) from None
