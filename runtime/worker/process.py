"""The engine process of a worker: one thread, one loop, no HTTP.

    take commands -> progress transfers -> plan -> run the model -> commit -> emit events

It owns the model, the KV pages, the tickets and the UCX endpoints. It ends when the HTTP process
that started it does, and the other way round. Run as `python -m mserve.runtime.worker.process FD`.
"""

import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mserve.runtime.cluster.membership import KvLayout
from mserve.runtime.engine.batching import ModelRunner
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.errors import ConfigError
from mserve.runtime.transport.base import Transport
from mserve.runtime.worker import ipc
from mserve.runtime.worker.service import WorkerService

logger = logging.getLogger("mserve.engine")

STATS_INTERVAL_S = 0.5
TICK_S = 0.25  # leases are looked at this often


class EngineProcess:
    """The driver: owns the socket to the HTTP process and the order in which things happen."""

    def __init__(
        self,
        channel: socket.socket,
        service: WorkerService,
        runner: ModelRunner,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._service = service
        self._runner = runner
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
            self._service.progress(self._clock())
            stepped = self._step()
            self._tick()
            self._write_events()
            if not stepped:
                self._sleep()

    def _step(self) -> bool:
        batch = self._service.plan(self._clock())
        if batch is None:
            return False
        hook = self._layer_done if self._service.wants_layers else None
        try:
            output = self._runner.run(batch, hook)
        except (RuntimeError, ValueError, IndexError) as error:
            logger.exception("a step failed")
            self._service.fail_batch(batch, f"The model could not run: {error}", self._clock())
        else:
            self._service.commit(batch, output, self._clock())
        return True

    def _layer_done(self, layer: int) -> None:
        self._service.layer_done(layer)
        self._service.progress(self._clock())

    def _tick(self) -> None:
        now = self._clock()
        if now >= self._next_tick_s:
            self._next_tick_s = now + TICK_S
            self._service.expire(now)
        if now >= self._next_stats_s:
            self._next_stats_s = now + STATS_INTERVAL_S
            self._outgoing += ipc.encode_frame([self._service.stats()])

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
                self._take(command)

    def _take(self, command: ipc.Command) -> None:
        now = self._clock()
        match command:
            case ipc.Submit():
                self._service.submit(command.call, command.held, now)
            case ipc.Cancel():
                self._service.cancel(command.key, now)
            case ipc.StopGenerating():
                self._service.stop_generating(command.key, now)
            case ipc.Greet():
                self._service.greet(command.peers)
            case ipc.Drain():
                self._service.draining = True
            case _:
                self._answer(command, now)

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


def _receive_config(channel: socket.socket) -> ipc.EngineConfig:
    buffer = bytearray()
    while True:
        data = channel.recv(65536)
        if not data:
            raise SystemExit(0)
        buffer += data
        for body in ipc.split_frames(buffer):
            return msgspec.msgpack.decode(body, type=ipc.EngineConfig)


def _build(config: ipc.EngineConfig) -> tuple[WorkerService, ModelRunner, Transport, ipc.Ready]:
    # Torch and UCX take seconds to import; the HTTP process must be able to say so meanwhile.
    from mserve.runtime.engine.calibration import measure_costs
    from mserve.runtime.engine.runner import load_runner
    from mserve.runtime.engine.weights import weights_digest
    from mserve.runtime.transport.ucx import UcxTransport, cma_warning

    runner = load_runner(
        config.model,
        device=config.device,
        dtype=config.dtype,
        page_size=config.page_size,
        kv_memory_bytes=config.kv_memory_bytes,
        threads=config.threads,
    )
    transport = UcxTransport()
    cost = measure_costs(runner, time.perf_counter)
    layout = KvLayout(
        model=Path(config.model).resolve().name,
        weights=weights_digest(Path(config.model)),
        dtype=config.dtype,
        num_layers=runner.config.num_layers,
        kv_heads=runner.config.num_kv_heads,
        head_dim=runner.config.head_dim,
    )
    # An answer that no number of pages could hold ends at its limit, not with an error.
    limit = min(runner.config.max_positions, runner.pool.num_pages * config.page_size)
    engine = Engine(
        EngineConfig(
            page_size=config.page_size,
            num_pages=runner.pool.num_pages,
            max_batch_tokens=config.max_batch_tokens,
            chunk_tokens=config.chunk_tokens,
            max_running=config.max_running,
            max_model_len=min(config.max_model_len or limit, limit),
            eos_token_ids=frozenset(runner.config.eos_ids),
            vocab_size=runner.config.vocab_size,
        )
    )
    offset_s = time.time() - time.monotonic()
    service = WorkerService(
        engine,
        runner.pool,
        transport,
        worker=config.worker,
        incarnation=config.incarnation,
        fingerprint=layout.fingerprint,
        unix_s=lambda now: now + offset_s,
        lease_s=config.lease_s,
    )
    ready = ipc.Ready(
        layout=layout,
        transport_address=transport.address,
        page_size=config.page_size,
        num_pages=runner.pool.num_pages,
        max_model_len=engine.config.max_model_len,
        cost=cost,
        notes=tuple(note for note in (cma_warning(),) if note),
    )
    return service, runner, transport, ready


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the HTTP process, which decides
    channel = socket.socket(fileno=int(sys.argv[1]))
    config = _receive_config(channel)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        service, runner, transport, ready = _build(config)
    except ConfigError as error:
        channel.sendall(ipc.encode_frame([ipc.FailedStart(str(error))]))
        raise SystemExit(2) from None
    channel.sendall(ipc.encode_frame([ready]))
    try:
        EngineProcess(channel, service, runner, transport).run()
    finally:
        transport.close()
        os._exit(0)  # torch and UCX threads must not delay the end


if __name__ == "__main__":
    main()
