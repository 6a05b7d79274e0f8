"""A strategy as data for views: what it declares, as written, and the plan of every route over
symbols (`p`, `100% - tail`) instead of workers and numbers.

Knows nothing of how a view looks (views).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mserve.compiler.lower import run_passes
from mserve.compiler.passes import Draft, Handoff, Replica, Segment
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.plan import Plan
from mserve.dsl.source import Source
from mserve.dsl.syntax import (
    Compute,
    Generate,
    Node,
    PromptRange,
    Range,
    Replicate,
    Reuse,
    Route,
    Setting,
    Strategy,
)

_SPACING = 100  # between the positions that stand for bounds; copies end in the gaps


@dataclass(frozen=True, slots=True)
class Labels:
    """What the workers and positions of a plan are called; others are shown as they are."""

    workers: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[int, str] = field(default_factory=dict)
    cached: Mapping[str, int] = field(default_factory=dict)  # tokens by worker, worth a word

    def worker(self, name: str) -> str:
        return self.workers.get(name, name)

    def position(self, position: int) -> str:
        return self.positions.get(position, str(position))


@dataclass(frozen=True, slots=True)
class SymbolicRoute:
    """A route with all its workers different, no range empty and nothing cached."""

    name: str
    guard: str | None  # as written
    draft: Draft
    labels: Labels

    def stages(self) -> Iterator[tuple[str, Draft]]:
        """The draft after every pass, by the pass's name."""
        yield from run_passes(self.draft)

    def plan(self) -> Plan:
        *_, (_, draft) = self.stages()
        return Plan("", self.name, draft.num_tokens, draft.steps)


@dataclass(frozen=True, slots=True)
class StrategyPlan:
    """What a strategy compiles to before any request: a decision table of symbolic plans."""

    name: str
    description: str
    params: tuple[tuple[str, str, str, str], ...]  # name, default, low, high, as written
    pools: tuple[tuple[str, int], ...]  # name, workers
    bindings: tuple[tuple[str, str], ...]  # name, expression as written
    routes: tuple[SymbolicRoute, ...]
    settings: Mapping[str, tuple[str, ...]]  # of pools by name, as written, less `workers`
    others: tuple[tuple[str, str], ...]  # kind (def, adapt, slo, limits) and what it says


def describe(strategy: CompiledStrategy) -> StrategyPlan:
    tree, source = strategy.checked.strategy, strategy.checked.source
    assert tree is not None, "a compiled strategy has a tree"
    return StrategyPlan(
        tree.name,
        tree.description,
        tuple(
            (p.name, _text(source, p.default), _text(source, p.low), _text(source, p.high))
            for p in tree.params
        ),
        tuple((pool.name, pool.workers) for pool in strategy.pools),
        tuple((let.name, _text(source, let.value)) for let in tree.lets),
        tuple(symbolic_route(route, source) for route in tree.routes),
        {pool.name: _settings(source, pool.settings) for pool in tree.pools},
        tuple(_others(source, tree)),
    )


def _settings(source: Source, settings: tuple[Setting, ...]) -> tuple[str, ...]:
    return tuple(_text(source, setting) for setting in settings if setting.name != "workers")


def _others(source: Source, tree: Strategy) -> Iterator[tuple[str, str]]:
    for definition in tree.defs:
        parameters = ", ".join(definition.parameters)
        yield "def", f"{definition.name}({parameters}) = {_text(source, definition.value)}"
    for adapt in tree.adapts:
        for update in adapt.updates:
            yield "adapt", f"{_text(source, update)}  (every {_text(source, adapt.every)})"
    for slo in tree.slos:
        yield "slo", ", ".join(_text(source, goal) for goal in slo.goals)
    for limits in tree.limits:
        yield "limits", ", ".join(_text(source, limit) for limit in limits.limits)


def symbolic_route(route: Route, source: Source) -> SymbolicRoute:
    """Workers written alike are one worker."""
    symbols = _Symbols(source)
    generates = [step for step in route.steps if isinstance(step, Generate)]
    pieces = [step for step in route.steps if isinstance(step, (Compute, Reuse))]
    generator = symbols.worker(generates[0].worker)
    segments = [symbols.segment(piece, generator) for piece in pieces]
    segments.append(Segment(generator, *symbols.advance("n")))
    num_tokens = segments[-1].end
    draft = Draft(
        num_tokens,
        generator,
        tuple(segments),
        {},
        symbols.handoff(generates, num_tokens),
        tuple(symbols.replica(s, num_tokens) for s in route.steps if isinstance(s, Replicate)),
    )
    guard = None if route.guard is None else _text(source, route.guard)
    return SymbolicRoute(route.name, guard, draft, symbols.labels)


def _text(source: Source, node: Node) -> str:
    return source.one_line(node.span)


class _Symbols:
    """Gives numbers to the workers and bounds of one route and remembers how they are written."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._workers: dict[str, str] = {}
        self._positions = {0: "0"}
        self._end = 0

    @property
    def labels(self) -> Labels:
        return Labels({name: text for text, name in self._workers.items()}, self._positions)

    def worker(self, expr: Node) -> str:
        text = _text(self._source, expr)
        return self._workers.setdefault(text, f"w{len(self._workers)}")

    def advance(self, label: str) -> tuple[int, int]:
        """The next range; its end is called `label`."""
        begin, self._end = self._end, self._end + _SPACING
        self._positions[self._end] = label
        return begin, self._end

    def segment(self, piece: Compute | Reuse, generator: str) -> Segment:
        worker = self.worker(piece.worker)
        end = self._bound(piece.range)
        if isinstance(piece, Reuse):
            cached = f"cached({_text(self._source, piece.worker)})"
            end = cached if end == "n" else f"min({end}, {cached})"
        elif end == "n" and worker != generator:
            end = "n - 1"  # the last token runs where the answer is generated
        return Segment(worker, *self.advance(end))

    def _bound(self, range_: Range) -> str:
        if isinstance(range_, PromptRange) and range_.end is not None:
            return _text(self._source, range_.end)
        return "n"

    def handoff(self, generates: list[Generate], num_tokens: int) -> Handoff | None:
        count = generates[0].count
        if count is None:
            return None
        first, second = (self.worker(step.worker) for step in generates)
        if first == second:  # nothing moves
            return None
        end = num_tokens + _SPACING
        self._positions[end] = f"n + {_text(self._source, count)} - 1"
        return Handoff(second, end)

    def replica(self, step: Replicate, num_tokens: int) -> Replica:
        label, end = self._bound(step.range), num_tokens
        if label != "n":
            end = num_tokens - _SPACING + len(self._positions)
            self._positions[end] = label
        return Replica(self.worker(step.worker), end)
