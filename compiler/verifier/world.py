"""All actors of an exploration together, and every move that one of their states allows.

A move is: one message is handled; or, while faults are left, one fault.
"""

from collections.abc import Callable, Iterator

from mserve.compiler.protocol import Effect, TicketEvent, TicketState, Transition
from mserve.compiler.verifier.confluence import is_confluent
from mserve.compiler.verifier.faults import Faults
from mserve.compiler.verifier.network import Wire, without_first
from mserve.compiler.verifier.parts import parts_of
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.router import RouterState
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.signals import ROUTER, Kind, Signal
from mserve.compiler.verifier.steps import Move, Result, World
from mserve.compiler.verifier.views import SENDER, WorkerState
from mserve.compiler.verifier.worker import Worker

_TAKING = (TicketState.RESERVED, TicketState.RECEIVING)


class Moves(Faults):
    """The moves of one scene under one set of rules."""

    def __init__(self, scene: Scene, rules: Rules, *, has_all_orders: bool = False) -> None:
        super().__init__(scene, rules)
        self._num_faults = 0  # at the start
        self._is_confluent = False
        self._has_all_orders = has_all_orders
        counting = Transition(TicketState.RECEIVING, (Effect.COUNT,))
        self._has_silent_data = all(
            rules.ticket.get((state, TicketEvent.DATA)) == counting for state in _TAKING
        )

    def first(self, faults: int) -> list[World]:
        """The states in which the first calls are under way."""
        self._num_faults = faults
        is_reducible = not faults and not self._has_all_orders
        self._is_confluent = is_reducible and all(
            is_confluent(part, self._rules) for part in parts_of(self._scene)
        )
        workers = (WorkerState(),) * (len(self._scene.workers) + 1)
        empty = World(RouterState(), workers, faults=faults)
        found = self._at_router(empty, dict(empty.channels), "start", lambda r: r.start())
        return [world for world, _ in found if world is not None]

    def of(self, world: World) -> Iterator[tuple[Move, Result]]:
        """Everything that may happen next. Parked announcements time out only when nothing else
        happens: earlier is a fault."""
        if self._is_confluent:
            wire = next((w for w, _ in world.channels if w.target != ROUTER), None)
        else:
            wire = self._without_echo(world)
        if wire is not None:
            signal = dict(world.channels)[wire][0]
            yield from self._delivered(world, wire, signal)
            if world.faults:
                after = world._replace(faults=world.faults - 1)
                yield from self._tampered(after, wire, signal)
            return
        is_quiet = not world.channels and not world.late
        for wire, signals in world.channels:
            yield from self._delivered(world, wire, signals[0])
        for letter in world.late:
            yield from self._overtaken(world, letter)
        if is_quiet:
            yield from self._parked(world)
        if world.faults and not self.is_idle(world):
            yield from self._faults(world)

    def _without_echo(self, world: World) -> Wire | None:
        """A connection whose next message is the next half of an open ticket, if there is one."""
        for wire, signals in world.channels:
            kind, number, detail, _, is_foreign = signals[0]
            if kind is not Kind.DATA or is_foreign:
                continue
            worker = world.workers[wire.target]
            ticket = None if worker is None else worker.ticket(number)
            if ticket is None or ticket.peer != SENDER or ticket.halves != detail:
                continue
            if self._has_silent_data and ticket.state in _TAKING:
                return wire
        return None

    def is_idle(self, world: World) -> bool:
        """Nothing is left of the request anywhere: no fault could matter."""
        return (
            not world.channels
            and not world.late
            and world.router.is_over
            and all(w is None or not (w.sessions or w.parked) for w in world.workers)
        )

    def check_end(self, world: World) -> None:
        """What must hold where nothing more happens. Raises Violation."""
        if not world.router.is_over:
            raise Violation(Property.END, "nothing more happens, and the answer has no end")
        if world.router.retries and world.faults == self._num_faults:
            raise Violation(Property.END, "without any fault the plan failed and was made anew")
        for name, worker in zip((*self._scene.workers, "spare"), world.workers, strict=True):
            if worker is None:
                continue
            if worker.sessions:
                raise Violation(Property.PAGES, f"{name} keeps a plan that never ends")
            if worker.leaving:
                raise Violation(Property.PAGES, f"{name} keeps pages that nothing lets go")

    # --- messages ------------------------------------------------------------------------------

    def _delivered(self, world: World, wire: Wire, signal: Signal) -> Iterator[tuple[Move, Result]]:
        move = Move("deliver", wire.target, signal, wire)
        for result in self._handled(world, without_first(world.channels, wire), wire, signal):
            yield move, result

    def _overtaken(
        self, world: World, letter: tuple[Wire, Signal]
    ) -> Iterator[tuple[Move, Result]]:
        wire, signal = letter
        rest = list(world.late)
        rest.remove(letter)
        after = world._replace(late=tuple(rest))
        for result in self._handled(after, dict(world.channels), wire, signal):
            yield Move("late", wire.target, signal, wire), result

    def _parked(self, world: World) -> Iterator[tuple[Move, Result]]:
        for index, worker in enumerate(world.workers):
            for number in worker.parked if worker else ():
                move = Move("unclaimed", index, Signal(Kind.OPEN, number))
                for result in self._at_worker(
                    world, {}, index, ("parked", number), _expire_parked(number)
                ):
                    yield move, result


def _expire_parked(number: int) -> Callable[[Worker], None]:
    return lambda worker: worker.expire_parked(number)
