"""The engine process of a virtual worker: the loop of worker/process.py as callbacks, steps in time.

    take commands -> progress transfers -> plan -> run the model, layer by layer -> commit -> events

Commands wait until the running step is over, transfers go on between its layers, as in a process
with one thread. Knows no HTTP.
"""

import logging
from collections import deque
from collections.abc import Callable

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch
from mserve.runtime.errors import EngineFailure, RequestError
from mserve.runtime.messages import Problem
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.model import HashedModel
from mserve.runtime.worker import ipc
from mserve.runtime.worker.service import WorkerService

log = logging.getLogger(__name__)

TICK_S = 0.25  # leases are looked at this often

Deliver = Callable[[list[ipc.Event]], None]
Poison = Callable[[str], bool]


class EngineDriver:
    """Drives one service until it is killed; `deliver` takes what the HTTP process must know.

    `poisons(key)` says that the model fails, this time, at this plan's part of a batch.
    """

    def __init__(
        self,
        service: WorkerService,
        model: HashedModel,
        clock: VirtualClock,
        cost: CostProfile,
        deliver: Deliver,
        poisons: Poison = lambda key: False,
    ) -> None:
        self._service = service
        self._model = model
        self._clock = clock
        self._cost = cost
        self._deliver = deliver
        self._poisons = poisons
        self._commands: deque[ipc.Command] = deque()
        self._outgoing: list[ipc.Event] = []
        self._is_awake = False  # a turn is due, or a step runs
        self._next: Callable[[], None] | None = None  # what a frozen process goes on with
        self._ticks = clock.every(TICK_S, self._tick)
        self.is_frozen = False
        self.is_dead = False
        self.num_steps = 0

    def post(self, command: ipc.Command) -> None:
        self._commands.append(command)
        self.wake()

    def wake(self) -> None:
        """There is something to do: a command, or news of the transport."""
        if not self._is_awake and not self.is_dead:
            self._is_awake = True
            self._clock.call_soon(lambda: self._go_on(self._turn))

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        going, self._next = self._next, None
        if going is not None:
            going()

    def kill(self) -> None:
        self.is_dead = True
        self._ticks.cancel()

    # --- the loop ------------------------------------------------------------------------------

    def _go_on(self, what: Callable[[], None]) -> None:
        if self.is_dead:
            return
        if self.is_frozen:
            self._next = what
        else:
            what()

    def _tick(self) -> None:
        if not self.is_frozen and not self._is_awake:
            self._service.expire(self._clock.now())
            self._is_awake = True
            self._turn()

    def _turn(self) -> None:
        now = self._clock.now()
        while self._commands:
            self._take(self._commands.popleft(), now)
        self._service.expire(now)
        self._service.progress(now)
        batch = self._service.plan(now)
        self._emit()
        if batch is None:
            self._is_awake = False
        else:
            self._begin(batch)

    def _begin(self, batch: Batch) -> None:
        self.num_steps += 1
        duration_s = self._duration(batch)
        self._model.begin(batch)
        if self._service.wants_layers:
            self._schedule_layer(batch, 0, duration_s / self._model.num_layers)
        else:
            self._after(duration_s, lambda: self._end(batch, hooked=False))

    def _schedule_layer(self, batch: Batch, layer: int, layer_s: float) -> None:
        self._after(layer_s, lambda: self._layer(batch, layer, layer_s))

    def _layer(self, batch: Batch, layer: int, layer_s: float) -> None:
        self._model.compute(batch, layer)
        self._service.layer_done(layer, self._clock.now())
        self._service.progress(self._clock.now())
        if layer + 1 < self._model.num_layers:
            self._schedule_layer(batch, layer + 1, layer_s)
        else:
            self._end(batch, hooked=True)

    def _end(self, batch: Batch, *, hooked: bool) -> None:
        now = self._clock.now()
        culprits = [key for key in _keys(batch) if self._poisons(key)]
        if culprits:
            error = EngineFailure("The model could not run this request.")
            self._service.abandon(batch, dict.fromkeys(culprits, error), now)
        else:
            for layer in range(0 if hooked else self._model.num_layers):
                self._model.compute(batch, layer)
            self._service.commit(batch, self._model.sample(batch), now)
        self._turn()

    def _after(self, delay_s: float, what: Callable[[], None]) -> None:
        self._clock.call_after(delay_s, lambda: self._go_on(what))

    def _duration(self, batch: Batch) -> float:
        chunks = [(chunk.begin, chunk.end) for chunk in batch.prefill]
        return self._cost.step_time(chunks, len(batch.decode))

    # --- the HTTP process's side ---------------------------------------------------------------

    def _take(self, command: ipc.Command, now: float) -> None:
        match command:
            case ipc.Submit():
                self._submit(command, now)
            case ipc.Cancel():
                self._service.cancel(command.key, now)
            case ipc.StopGenerating():
                self._service.stop_generating(command.key, now)
            case ipc.Greet():
                self._service.greet(command.peers)
            case ipc.Drain():
                self._service.draining = True
            case ipc.Resync():
                self._emit()
                self._outgoing.append(self._service.snapshot(command.request))
            case _:
                raise AssertionError(f"nobody asks a virtual engine {type(command).__name__}")

    def _submit(self, command: ipc.Submit, now: float) -> None:
        answer: ipc.Event = ipc.Accepted(command.request)
        try:
            self._service.submit(command.call, command.held, now)
        except RequestError as error:
            answer = ipc.Refused(command.request, Problem.of(error))
        self._outgoing.append(answer)

    def _emit(self) -> None:
        self._outgoing += self._service.drain()
        if self._outgoing:
            events, self._outgoing = self._outgoing, []
            self._deliver(events)


def _keys(batch: Batch) -> list[str]:
    return [chunk.sequence.key for chunk in batch.prefill] + [s.key for s in batch.decode]
