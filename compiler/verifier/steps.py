"""One state of all actors of an exploration, and what a step of one of them makes of it.

Steps of workers and of the router are remembered, as the same worker meets the same message in very
many states of the others. Knows neither which steps are due nor what a fault is.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mserve.compiler.protocol import TicketState
from mserve.compiler.verifier.network import (
    Channels,
    Wire,
    cut_off,
    frozen,
    is_dead,
    wire_of,
    without_dead,
)
from mserve.compiler.verifier.properties import Violation
from mserve.compiler.verifier.router import Router, RouterState
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.signals import ROUTER, Kind, Letter, Signal
from mserve.compiler.verifier.views import Choices, WorkerState
from mserve.compiler.verifier.worker import Worker


class World(NamedTuple):
    """One state. A worker that crashed and stays away is None; `late` are overtaken messages."""

    router: RouterState
    workers: tuple[WorkerState | None, ...]
    channels: Channels = ()
    late: tuple[tuple[Wire, Signal], ...] = ()
    faults: int = 0


class Move(NamedTuple):
    """`what` happens at `who`; `wire` and `signal` are of the message, if it is one."""

    what: str
    who: int
    signal: Signal | None = None
    wire: Wire | None = None


Result = tuple[World | None, Violation | None]
WorkerStep = tuple[WorkerState, tuple[Letter, ...], Violation | None]
RouterStep = tuple[RouterState, tuple[Letter, ...], Violation | None]


class Steps:
    """The steps of the actors of one scene under one set of rules."""

    def __init__(self, scene: Scene, rules: Rules) -> None:
        self._scene = scene
        self._rules = rules
        self._has_dead = not any(state is TicketState.RELEASED for state, _ in rules.ticket)
        self._worker_steps: dict[object, tuple[WorkerStep, ...]] = {}
        self._router_steps: dict[object, tuple[RouterStep, ...]] = {}

    def _handled(
        self, world: World, channels: dict[Wire, tuple[Signal, ...]], wire: Wire, signal: Signal
    ) -> Iterator[Result]:
        if wire.target == ROUTER:
            key = (wire.source, signal)
            return self._at_router(
                world, channels, key, lambda router: router.take(wire.source, signal)
            )
        return self._at_worker(
            world, channels, wire.target, signal, lambda worker: worker.take(signal)
        )

    def _at_worker(
        self,
        world: World,
        channels: dict[Wire, tuple[Signal, ...]],
        index: int,
        key: object,
        act: Callable[[Worker], None],
    ) -> Iterator[Result]:
        state = world.workers[index]
        assert state is not None, "messages to a worker that is away are dropped when they are sent"
        memo = (index, state, key)
        steps = self._worker_steps.get(memo)
        if steps is None:
            steps = self._worker_steps[memo] = tuple(self._worker_outcomes(index, state, act))
        for after, letters, violation in steps:
            if violation is not None:
                yield None, violation
                continue
            workers = (*world.workers[:index], after, *world.workers[index + 1 :])
            changed = World(world.router, workers, (), world.late, world.faults)
            if after.ended != state.ended and self._has_dead:
                channels = without_dead(channels, index, after.ended)
            yield self._with_letters(changed, dict(channels), index, letters), None

    def _worker_outcomes(
        self, index: int, state: WorkerState, act: Callable[[Worker], None]
    ) -> Iterator[WorkerStep]:
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            choices = Choices(scripts.pop())
            worker = Worker(self._scene, self._rules, index, state, choices)
            try:
                act(worker)
                outcome = worker.result()
                yield outcome.state, outcome.letters, None
            except Violation as violation:
                yield state, (), violation
            scripts += choices.open

    def _at_router(
        self,
        world: World,
        channels: dict[Wire, tuple[Signal, ...]],
        key: object,
        act: Callable[[Router], None],
    ) -> Iterator[Result]:
        memo = (world.router, key)
        steps = self._router_steps.get(memo)
        if steps is None:
            steps = self._router_steps[memo] = tuple(self._router_outcomes(world.router, act))
        for after, letters, violation in steps:
            if violation is not None:
                yield None, violation
                continue
            is_open = set(after.open)
            read = {
                wire: signals
                for wire, signals in channels.items()
                if wire.target != ROUTER or (wire.call, wire.source) in is_open
            }
            yield self._with_letters(world._replace(router=after), read, ROUTER, letters), None

    def _router_outcomes(
        self, state: RouterState, act: Callable[[Router], None]
    ) -> Iterator[RouterStep]:
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            choices = Choices(scripts.pop())
            router = Router(self._scene, self._rules, state, choices)
            try:
                act(router)
                yield (*router.result(), None)
            except Violation as violation:
                yield state, (), violation
            scripts += choices.open

    def _with_letters(
        self,
        world: World,
        channels: dict[Wire, tuple[Signal, ...]],
        source: int,
        letters: tuple[Letter, ...],
    ) -> World:
        """Puts letters under way; those to who is away come back as a broken connection."""
        for target, signal in letters:
            wire = wire_of(source, target, signal)
            if target == ROUTER and (wire.call, source) not in world.router.open:
                continue
            there = None if target == ROUTER else world.workers[target]
            if there is not None and self._has_dead and is_dead(signal, there.ended):
                continue
            if target == ROUTER or there is not None:
                channels[wire] = (*channels.get(wire, ()), signal)
            elif source == ROUTER and signal.kind is Kind.PLAN:
                back = Wire(target, ROUTER, wire.call)
                channels[back] = (Signal(Kind.END_OF_STREAM, wire.call),)
            elif source != ROUTER:
                cut_off(channels, target, [source])
        return World(world.router, world.workers, frozen(channels), world.late, world.faults)
