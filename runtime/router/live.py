"""The strategy being served, and how it changes while it is: its params, by hand and by its `adapt`
blocks, or the whole of it.

A decision is made by one version from beginning to end; a change holds from the next one on. What
the language is stays outside: a `Language` compiles texts and reads values.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from mserve.compiler.observe import Observations, Strategy
from mserve.compiler.plan import Decision, LimitsSpec, ParamSpec, PoolSpec, SloSpec
from mserve.runtime.clock import Clock, Timer
from mserve.runtime.errors import BadRequest

log = logging.getLogger(__name__)


class Language(Protocol):
    """What a router cannot do itself: it knows plans, not the language."""

    def compile(self, text: bytes) -> Strategy:
        """Checked, proved and compiled. Raises Unprocessable with every problem of the text."""
        ...

    def read(self, strategy: Strategy, param: str, text: str) -> float:
        """`20%`, `50ms` as a number in base units. Raises BadRequest."""
        ...


class LiveStrategy:
    """Is the current version to whoever decides by it. `version` counts swaps, from 1."""

    def __init__(self, strategy: Strategy, check: Callable[[Strategy], None]) -> None:
        """`check` raises what is wrong with a strategy for this router."""
        check(strategy)
        self._check = check
        self.current = strategy
        self.version = 1

    @property
    def name(self) -> str:
        return self.current.name

    @property
    def pools(self) -> tuple[PoolSpec, ...]:
        return self.current.pools

    @property
    def limits(self) -> LimitsSpec:
        return self.current.limits

    @property
    def slo(self) -> SloSpec:
        return self.current.slo

    @property
    def observes(self) -> frozenset[str]:
        return self.current.observes

    @property
    def params(self) -> Mapping[str, ParamSpec]:
        return self.current.params

    def decide(self, view: Observations) -> Decision | None:
        return self.current.decide(view)

    def swap(self, strategy: Strategy) -> None:
        """Raises what is wrong with it; the old one then goes on."""
        self._check(strategy)
        self.current = strategy
        self.version += 1
        log.info("version %d: strategy %s", self.version, strategy.name)

    def set_params(self, values: Mapping[str, float]) -> None:
        """All of them or none. Raises BadRequest for an unknown param or a value out of range."""
        for name, value in values.items():
            spec = self.current.params.get(name)
            if spec is None:
                known = ", ".join(self.current.params) or "none"
                raise BadRequest(
                    f"Strategy '{self.name}' has no param '{name}'; it has: {known}.", param=name
                )
            if not spec.low <= value <= spec.high:
                low, high, given = (
                    self.current.spell(name, each) for each in (spec.low, spec.high, value)
                )
                raise BadRequest(f"'{name}' goes from {low} to {high}, not {given}.", param=name)
        for name, value in values.items():
            self.current.set_param(name, value)


class Adapter:
    """Runs the `adapt` blocks of the current version, each in its own time."""

    def __init__(
        self, live: LiveStrategy, observe: Callable[[], Observations], clock: Clock
    ) -> None:
        """`observe` gives a view of the cluster that is no request's."""
        self._live = live
        self._observe = observe
        self._clock = clock
        self._timers: Sequence[Timer] = ()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.restart()
        try:
            yield
        finally:
            self._stop()

    def restart(self) -> None:
        """The blocks are others now."""
        self._stop()
        strategy = self._live.current
        self._timers = [
            self._clock.every(block.every_s, lambda index=index: self._adapt(strategy, index))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            for index, block in enumerate(strategy.adaptations)
        ]

    def _stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = ()

    def _adapt(self, strategy: Strategy, index: int) -> None:
        before = dict(strategy.values)
        for name, value in strategy.adapt(self._observe(), strategy.adaptations[index]).items():
            strategy.set_param(name, value)
            if value != before[name]:
                words = strategy.spell(name, before[name]), strategy.spell(name, value)
                log.info("adapt: %s = %s, was %s", name, words[1], words[0])
