"""The engine process of a worker: one thread, one loop, no HTTP.

    take commands -> progress transfers -> plan, run the model, commit -> emit events

Owns the socket to the HTTP process and the order in which things happen; startup.py builds what it
drives, steps.py how the model is run. It ends when the HTTP process does, and the other way round.
"""

import json
import logging
import selectors
import socket
import time
from collections.abc import Callable

from msgspec.structs import replace

from mserve.runtime.errors import EngineFailure, RequestError
from mserve.runtime.messages import Problem
from mserve.runtime.transport.base import Transport
from mserve.runtime.worker import ipc
from mserve.runtime.worker.service import WorkerService
from mserve.runtime.worker.steps import Steps

logger = logging.getLogger("mserve.engine")

STATS_INTERVAL_S = 0.5
_MAX_TURNS = 8  # of the transport between two steps
TICK_S = 0.25  # leases are looked at this often


class EngineProcess:
    """The driver: owns the socket to the HTTP process and the order in which things happen."""

    def __init__(
        self,
        channel: socket.socket,
        service: WorkerService,
        steps: Steps,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._service = service
        self._steps = steps
        self._transport = transport
        self._clock = clock
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._next_tick_s = 0.0
        self._next_stats_s = 0.0
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)

    def run(self) -> None:
        """Serves until the HTTP process closes its side."""
        while not self._closed:
            self._read_commands()
            self._tick()
            self._progress()
            stepped = self._steps.step()
            self._write_events()
            if not stepped:
                self._sleep()

    def _progress(self) -> None:
        """What came while a step ran may take several turns; what is not taken now waits for another
        step."""
        for _ in range(_MAX_TURNS):
            self._service.progress(self._clock())
            if self._transport.wakeup_fd() is not None:
                return

    def _tick(self) -> None:
        now = self._clock()
        if now >= self._next_tick_s:
            self._next_tick_s = now + TICK_S
            self._service.expire(now)
        if now >= self._next_stats_s:
            self._next_stats_s = now + STATS_INTERVAL_S
            self._outgoing += ipc.encode_frame([self._stats()])

    def _stats(self) -> ipc.Stats:
        found = self._service.stats()
        drift = self._steps.drift
        stats = replace(found.stats, prefill_drift=drift.prefill, decode_drift=drift.decode)
        return replace(found, stats=stats)

    def _sleep(self) -> None:
        """Until a command, a transfer or the next tick; not at all while the wire has something."""
        wakeup = self._transport.wakeup_fd()
        if wakeup is None:
            return
        timeout_s = max(0.0, self._next_tick_s - self._clock())
        if wakeup not in self._selector.get_map():
            self._selector.register(wakeup, selectors.EVENT_READ)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        self._selector.modify(self._channel, events)
        self._selector.select(timeout_s)

    def _read_commands(self) -> None:
        while not self._closed:
            try:
                data = self._channel.recv(1 << 18)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                self._closed = True
            self._incoming += data
        for body in ipc.split_frames(self._incoming):
            for command in ipc.decode_commands(body):
                self._take_safely(command)

    def _take_safely(self, command: ipc.Command) -> None:
        """A fault of ours while a plan is handled ends that plan; only if pages can no longer be
        accounted for, the process."""
        try:
            self._take(command)
        except Exception:
            logger.exception("a command failed: %s", type(command).__name__)
            key = getattr(command, "key", "")
            if isinstance(command, ipc.Submit):
                key = command.call.key
                problem = Problem.of(EngineFailure("The worker failed at this call."))
                self._outgoing += ipc.encode_frame([ipc.Refused(command.request, problem)])
            self._service.contain(key, self._clock())

    def _take(self, command: ipc.Command) -> None:
        now = self._clock()
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
                self._next_stats_s = now  # who waits for the last plan's end asks the stats
            case _:
                self._answer(command, now)

    def _submit(self, command: ipc.Submit, now: float) -> None:
        answer: ipc.Event = ipc.Accepted(command.request)
        try:
            self._service.submit(command.call, command.held, now)
        except RequestError as error:
            answer = ipc.Refused(command.request, Problem.of(error))
        self._outgoing += ipc.encode_frame([answer])

    def _answer(self, question: ipc.Question, now: float) -> None:
        number = question.request
        match question:
            case ipc.Renew():
                self._reply(number, renewed=self._service.renew(question.tickets, now))
            case ipc.ReleaseTickets():
                self._reply(number, released=self._service.release(question.tickets, now))
            case ipc.Match():
                self._reply(number, matched=self._service.match(question.tokens, question.salt))
            case ipc.State():
                self._reply(number, **self._service.state())
            case ipc.Resync():
                self._outgoing += ipc.encode_frame([self._service.snapshot(number)])

    def _reply(self, request: int, **body: object) -> None:
        self._outgoing += ipc.encode_frame([ipc.Reply(request, json.dumps(body).encode())])

    def _write_events(self) -> None:
        events = self._service.drain()
        if events:
            self._outgoing += ipc.encode_frame(events)
        while self._outgoing:
            try:
                sent = self._channel.send(self._outgoing)
            except BlockingIOError:
                return
            except ConnectionError:
                self._closed = True
                return
            del self._outgoing[:sent]
