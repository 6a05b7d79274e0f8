"""A situation in the language's own words: `cluster decode = 4`, `given load(decode[0]) = 2s`.

Turns what tests and `--given` say into a reference cluster, fixed bindings and params. Problems
are GivenError, a sentence for whoever wrote it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mserve.compiler.frame import Frame, Value
from mserve.compiler.observe import REQUEST_OBSERVATIONS, TIMES, WORKER_OBSERVATIONS
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.reference import Fact, ReferenceCluster
from mserve.compiler.settings import ConstantError, constant, number_of
from mserve.dsl.check import check_text
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.syntax import Call, Expr, Given, Name, Setting, SettingCall, Test, Text, WorkerAt

MAX_WORKERS = 1000


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
    """Unlisted pools have one worker. Raises GivenError."""
    return _Reader(strategy, cluster).read(givens)


def situation_from_text(
    strategy: CompiledStrategy,
    cluster: Sequence[str] = (),
    givens: Sequence[str] = (),
    params: Sequence[str] = (),
) -> Situation:
    """The same from a command line: `decode=4`, `tokens(prompt) = 4000`, `tail=20%`.

    Raises GivenError.
    """
    lines = [f"cluster {text}" for text in cluster]
    lines += [f"given {text}" for text in (*givens, *params)]
    for line in lines:  # one by one first, so that a mistake is told about its own text
        _parse_test(line)
    body = "\n".join(lines)
    test = _parse_test(body)
    situation = situation_of(strategy, test.cluster, test.givens)
    _check(strategy, body)
    return situation


def _parse_test(body: str) -> Test:
    parsed = parse(Source.from_text(f'strategy situation ""\ntest "given" {{\n{body}\n}}'))
    if parsed.diagnostics or not parsed.strategy.tests:
        reason = parsed.diagnostics[0].message if parsed.diagnostics else "it is no given"
        raise GivenError(f"cannot read `{body}`: {reason}")
    return parsed.strategy.tests[0]


def _check(strategy: CompiledStrategy, body: str) -> None:
    """Raises GivenError for what the checks would say of a test in the strategy's own text: wrong
    units, shares over 100%, more cached than there is. What only a test may not give is let pass."""
    before = strategy.checked.source.text
    checked = check_text(f'{before}\ntest "given" {{\n{body}\n}}')
    for problem in checked.diagnostics:
        if problem.span.start >= len(before) and problem.rule != "not-available-here":
            text = checked.source.slice(problem.span)
            help_ = f" ({problem.help})" if problem.help else ""
            raise GivenError(f"`{text}`: {problem.message}{help_}")


class _Reader:
    """Reads the givens of one situation."""

    def __init__(self, strategy: CompiledStrategy, cluster: Iterable[Setting]) -> None:
        self._strategy = strategy
        self._pools = self._read_cluster(cluster)
        self._facts: dict[Fact, object] = {}
        self._situation = Situation(ReferenceCluster(self._pools, self._facts))

    def read(self, givens: Iterable[Given]) -> Situation:
        for given in givens:
            self._read(given)
        num_tokens = self._facts.get(("tokens", ()), 1)
        if not isinstance(num_tokens, (int, float)) or num_tokens < 1 or num_tokens % 1:
            raise GivenError("a prompt has a whole number of tokens, at least one")
        return self._situation

    def _read_cluster(self, cluster: Iterable[Setting]) -> dict[str, tuple[str, ...]]:
        sizes = {pool.name: 1 for pool in self._strategy.pools}
        for setting in cluster:
            if setting.name not in sizes:
                known = ", ".join(sizes)
                raise GivenError(f"there is no pool '{setting.name}'; the strategy has: {known}")
            size = _number(setting.value)
            if size != int(size) or not 0 <= size <= MAX_WORKERS:
                raise GivenError(f"pool '{setting.name}' can have 0 to {MAX_WORKERS} workers")
            sizes[setting.name] = int(size)
        return {pool: tuple(f"{pool}-{i}" for i in range(size)) for pool, size in sizes.items()}

    def _read(self, given: Given) -> None:
        if isinstance(given.target, Name):
            self._read_name(given.target.name, given.value)
        elif isinstance(given.target, Call):
            self._read_call(given.target, given.value)
        else:
            raise GivenError("a given is an observation or the name of a binding")

    def _read_name(self, name: str, value: Expr) -> None:
        strategy, situation = self._strategy, self._situation
        if name in strategy.names.let_names:
            situation.bindings[name] = self._value(value)
        elif name in strategy.params:
            situation.params[name] = self._param(name, _number(value))
        elif name in REQUEST_OBSERVATIONS or name == "max_tokens":
            self._facts[(name, ())] = self._value(value)
        else:
            raise GivenError(f"'{name}' is neither a binding, a param nor an observation here")

    def _param(self, name: str, value: float) -> float:
        param = self._strategy.params[name]
        if not param.low <= value <= param.high:
            raise GivenError(f"'{name}' goes from {param.low:g} to {param.high:g}, not {value:g}")
        return value

    def _read_call(self, target: Call, value: Expr) -> None:
        if target.name == "ttft":
            self._situation.forecasts[self._route(target.args[0])] = _number(value)
            return
        self._facts[self._fact(target)] = self._value(value)

    def _fact(self, target: Call) -> Fact:
        if target.name == "tokens":
            return ("tokens", ())
        if target.name == "header" and isinstance(target.args[0], Text):
            return (f"header:{target.args[0].value.lower()}", ())
        if target.name not in WORKER_OBSERVATIONS | TIMES | {"cached"}:
            raise GivenError(f"'{target.name}' is not an observation that can be given")
        return (target.name, tuple(self._value(arg) for arg in target.args))

    def _route(self, expr: Expr) -> str:
        name = expr.name if isinstance(expr, Name) else ""
        if name not in {route.name for route in self._strategy.routes}:
            raise GivenError(f"there is no route '{name}'")
        return name

    def _value(self, expr: Expr) -> Value:
        if isinstance(expr, WorkerAt):
            return self._worker(expr)
        try:
            return constant(expr)
        except ConstantError:
            raise GivenError("a given value is a constant or a worker like `decode[0]`") from None

    def _worker(self, expr: WorkerAt) -> str:
        workers = self._pools.get(expr.pool, ())
        if expr.index >= len(workers):
            raise GivenError(
                f"there is no worker {expr.pool}[{expr.index}] in a cluster with "
                f"{expr.pool} = {len(workers)}"
            )
        return workers[expr.index]


def _number(value: Expr | SettingCall) -> float:
    try:
        return number_of(value)
    except ConstantError:
        raise GivenError("only a number can stand here") from None
