"""All actors of an exploration together, and every move that one of their states allows.

A move is: one message is handled; or, while faults are left, one fault. Steps of workers and of the
router are remembered, as the same worker meets the same message in very many states of the others.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from mserve.compiler.protocol import AnswerState
from mserve.compiler.verifier.network import Channels, Wire, cut_off, frozen, wire_of, without_first
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.router import Router, RouterState
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.signals import OF_TRANSFERS, ROUTER, Kind, Letter, Signal
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


class Moves:
    """The moves of one scene under one set of rules."""

    def __init__(self, scene: Scene, rules: Rules) -> None:
        self._scene = scene
        self._rules = rules
        self._num_faults = 0  # at the start
        self._worker_steps: dict[object, tuple[WorkerStep, ...]] = {}
        self._router_steps: dict[object, tuple[RouterStep, ...]] = {}
        self._peers = [self._peers_of(worker) for worker in range(len(scene.workers) + 1)]

    def first(self, faults: int) -> list[World]:
        """The states in which the first calls are under way."""
        self._num_faults = faults
        workers = (WorkerState(),) * (len(self._scene.workers) + 1)
        empty = World(RouterState(), workers, faults=faults)
        found = self._at_router(empty, dict(empty.channels), "start", lambda r: r.start())
        return [world for world, _ in found if world is not None]

    def of(self, world: World) -> Iterator[tuple[Move, Result]]:
        """Everything that may happen next. Parked announcements time out only when nothing else
        happens: earlier is a fault."""
        is_quiet = not world.channels and not world.late
        for wire, signals in world.channels:
            yield from self._delivered(world, wire, signals[0])
        for letter in world.late:
            yield from self._overtaken(world, letter)
        if is_quiet:
            yield from self._parked(world)
        if world.faults and not self.is_idle(world):
            yield from self._faults(world)

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

    def _parked(self, world: World) -> Iterator[tuple[Move, Result]]:
        for index, worker in enumerate(world.workers):
            for number in worker.parked if worker else ():
                move = Move("unclaimed", index, Signal(Kind.OPEN, number))
                for result in self._at_worker(
                    world, {}, index, ("parked", number), _expire_parked(number)
                ):
                    yield move, result

    # --- steps of actors -----------------------------------------------------------------------

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
            changed = world._replace(workers=workers)
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
            if target == ROUTER or world.workers[target] is not None:
                channels[wire] = (*channels.get(wire, ()), signal)
            elif source == ROUTER and signal.kind is Kind.PLAN:
                back = Wire(target, ROUTER, wire.call)
                channels[back] = (Signal(Kind.END_OF_STREAM, wire.call),)
            elif source != ROUTER:
                cut_off(channels, target, [source])
        return world._replace(channels=frozen(channels))

    # --- faults --------------------------------------------------------------------------------

    def _faults(self, world: World) -> Iterator[tuple[Move, Result]]:
        after = world._replace(faults=world.faults - 1)
        yield from self._router_faults(after)
        for index, worker in enumerate(world.workers):
            if worker is not None and index < len(self._scene.workers):
                for what, crashed in self._crashes(after, index, worker):
                    yield Move(what, index), (crashed, None)
                yield from self._timeouts(after, index, worker)
        for wire, signals in world.channels:
            yield from self._tampered(after, wire, signals[0])

    def _router_faults(self, world: World) -> Iterator[tuple[Move, Result]]:
        def acts() -> Iterator[tuple[str, Callable[[Router], None]]]:
            if world.router.state is AnswerState.RUNNING:
                yield "cancel", lambda router: router.cancel()
                yield "give up", lambda router: router.give_up()
            yield "router crash", lambda router: router.crash()

        if world.router.is_over:
            return
        for what, act in acts():
            for result in self._at_router(world, dict(world.channels), what, act):
                yield Move(what, ROUTER), result

    def _timeouts(
        self, world: World, index: int, worker: WorkerState
    ) -> Iterator[tuple[Move, Result]]:
        for session in worker.sessions:
            for ticket in session.tickets:
                act = _expire_ticket(ticket.number)
                key = ("ticket", ticket.number)
                for result in self._at_worker(world, dict(world.channels), index, key, act):
                    yield Move("lease", index, Signal(Kind.OPEN, ticket.number)), result
            for send in session.sends:
                act = _expire_send(send.number)
                key = ("send", send.number)
                for result in self._at_worker(world, dict(world.channels), index, key, act):
                    yield Move("silence", index, Signal(Kind.OPEN, send.number)), result

    def _tampered(self, world: World, wire: Wire, signal: Signal) -> Iterator[tuple[Move, Result]]:
        """A message comes twice, late, or from a worker that has no part in it."""
        if signal.kind is Kind.PLAN:
            yield from self._twice(world, wire, signal)
        if signal.kind not in OF_TRANSFERS:
            return
        for result in self._handled(world, dict(world.channels), wire, signal):
            yield Move("repeat", wire.target, signal, wire), result
        foreign = signal._replace(is_foreign=True)
        if signal.kind is not Kind.OPEN:  # whose OPEN is the first is the peer
            for result in self._handled(world, dict(world.channels), wire, foreign):
                yield Move("foreign", wire.target, foreign, wire), result
        held_back = world._replace(
            channels=frozen(without_first(world.channels, wire)),
            late=tuple(sorted((*world.late, (wire, signal)))),
        )
        yield Move("hold back", wire.target, signal, wire), (held_back, None)

    def _twice(self, world: World, wire: Wire, signal: Signal) -> Iterator[tuple[Move, Result]]:
        """A call comes again at once; what its worker says to that goes nowhere."""
        move = Move("twice", wire.target, signal, wire)
        rest = without_first(world.channels, wire)
        for first, violation in self._handled(world, rest, wire, signal):
            if first is None:
                yield move, (first, violation)
                continue
            for again, violation in self._handled(first, dict(first.channels), wire, signal):
                is_refused = again is not None and again.workers == first.workers
                yield move, (first if is_refused else again, violation)

    def _crashes(
        self, world: World, index: int, worker: WorkerState
    ) -> Iterator[tuple[str, World]]:
        """Any prefix of what it had sent on each connection still arrives."""
        outgoing = [(wire, s) for wire, s in world.channels if wire.source == index]
        late = tuple(letter for letter in world.late if letter[0].target != index)
        for lengths in product(*(range(len(signals) + 1) for _, signals in outgoing)):
            kept = [(w, s[:n]) for (w, s), n in zip(outgoing, lengths, strict=True)]
            away = dict(item for item in world.channels if index not in item[0][:2])
            yield (
                "crash",
                self._after_crash(world._replace(late=late), away | dict(kept), index, None),
            )
            if worker.incarnation == 1:
                meant_for_it = self._survivors(world, index)
                fresh = WorkerState(incarnation=2)
                channels = away | dict(kept) | meant_for_it
                yield "restart", self._after_crash(world, channels, index, fresh)

    def _survivors(self, world: World, index: int) -> dict[Wire, tuple[Signal, ...]]:
        """What had not been connected yet when it crashed reaches the new incarnation."""
        first = {Kind.PLAN, Kind.OPEN}
        return {
            wire: signals
            for wire, signals in world.channels
            if wire.target == index and signals[0].kind in first
        }

    def _after_crash(
        self,
        world: World,
        channels: dict[Wire, tuple[Signal, ...]],
        index: int,
        fresh: WorkerState | None,
    ) -> World:
        cut_off(channels, index, [p for p in self._peers[index] if world.workers[p] is not None])
        for number, worker in world.router.open:
            if worker == index and not channels.get(Wire(ROUTER, index, number)):
                back = Wire(index, ROUTER, number)
                end = Signal(Kind.END_OF_STREAM, number)
                channels[back] = (*channels.get(back, ()), end)
        workers = (*world.workers[:index], fresh, *world.workers[index + 1 :])
        return world._replace(workers=workers, channels=frozen(channels))

    def _peers_of(self, worker: int) -> list[int]:
        ends = [(t.sender, t.receiver) for t in self._scene.transfers]
        return sorted({b for a, b in ends if a == worker} | {a for a, b in ends if b == worker})


def _expire_parked(number: int) -> Callable[[Worker], None]:
    return lambda worker: worker.expire_parked(number)


def _expire_ticket(number: int) -> Callable[[Worker], None]:
    return lambda worker: worker.expire_ticket(number)


def _expire_send(number: int) -> Callable[[Worker], None]:
    return lambda worker: worker.expire_send(number)
