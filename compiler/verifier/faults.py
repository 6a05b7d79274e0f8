"""Every fault that may befall one state of all actors: crashes, time-outs, and what networks do."""

from collections.abc import Callable, Iterator
from itertools import product

from mserve.compiler.verifier.network import Wire, cut_off, frozen, without_first
from mserve.compiler.verifier.router import Router
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.signals import OF_TRANSFERS, ROUTER, Kind, Signal
from mserve.compiler.verifier.steps import Move, Result, Steps, World
from mserve.compiler.verifier.views import WorkerState
from mserve.compiler.verifier.worker import Worker


class Faults(Steps):
    """Steps, and the faults that may come between them."""

    def __init__(self, scene: Scene, rules: Rules) -> None:
        super().__init__(scene, rules)
        self._peers = [self._peers_of(worker) for worker in range(len(scene.workers) + 1)]

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
            if not world.router.is_copying(self._scene):
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


def _expire_ticket(number: int) -> Callable[[Worker], None]:
    return lambda worker: worker.expire_ticket(number)


def _expire_send(number: int) -> Callable[[Worker], None]:
    return lambda worker: worker.expire_send(number)
