"""The HTTP process's end of the socket to the engine process, as asyncio calls and per-plan queues.

Starts the engine process and notices its end and its silence. Knows the messages of ipc.py, no HTTP.
"""

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec

from mserve.runtime.cluster.launch import dies_with_parent
from mserve.runtime.cluster.membership import WorkerStats
from mserve.runtime.errors import ConfigError, Unavailable
from mserve.runtime.messages import PlanCall
from mserve.runtime.worker import ipc
from mserve.runtime.worker.pulse import INTERVAL_S, Pulse

logger = logging.getLogger("mserve.worker")

# UCX reports on standard output what its callers are told anyway: a peer that is gone, or a variable
# of ucxx's that it does not know.
UCX_QUIET = {"UCX_LOG_LEVEL": "fatal", "UCX_WARN_UNUSED_ENV_VARS": "n"}

PlanEvent = ipc.Stepped | ipc.Token | ipc.Failed
PlanEvents = asyncio.Queue[PlanEvent | None]


class EngineLink:
    """One engine process. Events of a plan go to the queue opened for its key; others to callbacks."""

    def __init__(self, on_blocks: Callable[[ipc.Blocks], None]) -> None:
        self._on_blocks = on_blocks
        self._queues: dict[str, set[PlanEvents]] = {}
        self._replies: dict[int, asyncio.Future[ipc.Answer]] = {}
        self._requests = itertools.count(1)
        self._ready: asyncio.Future[ipc.Ready] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pulse = Pulse()
        self._pulse_pipe: asyncio.ReadTransport | None = None
        self._drained = asyncio.Event()
        self.closed = asyncio.Event()  # the engine process is gone
        self.silence = ""  # what is wrong with an engine process that does not answer
        self.stats = ipc.Stats(WorkerStats())

    async def start(self, config: ipc.EngineConfig) -> ipc.Ready:
        """Starts the engine process; raises ConfigError with its reason if it cannot serve."""
        ours, theirs = socket.socketpair()
        pulse_end, write_end = os.pipe()
        loop = asyncio.get_running_loop()
        self._pulse_pipe, _ = await loop.connect_read_pipe(
            lambda: self._pulse, os.fdopen(pulse_end, "rb", 0)
        )
        with theirs, os.fdopen(write_end, "wb", 0):
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "mserve.runtime.worker.startup",
                str(theirs.fileno()),
                str(write_end),
                pass_fds=(theirs.fileno(), write_end),
                stdin=asyncio.subprocess.DEVNULL,
                preexec_fn=dies_with_parent(),
                env={**os.environ, **UCX_QUIET},
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        body = msgspec.msgpack.encode(config)
        self._writer.write(len(body).to_bytes(4, "little") + body)
        self._reader_task = asyncio.create_task(self._read(reader))
        ready = await self._ready
        self._pulse.expect_steps(ready.cost.prefill_time(config.max_batch_tokens))
        return ready

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Until cancelled: ends all that waits for an engine process that is silent, and calls
        `on_change` when it falls silent and when it is heard again."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            wrong = self._pulse.look()
            if wrong == self.silence:
                continue
            if wrong:
                logger.error("the engine process %s; its requests go to other workers", wrong)
            else:
                logger.warning("the engine process answers again")
            self.silence = wrong
            if wrong:
                self._interrupt()
            on_change()

    async def drained(self) -> None:
        """Has the engine take no new plans; returns when it has none left."""
        self.send(ipc.Drain())
        await self._drained.wait()

    async def end(self) -> str:
        """How the engine process ended, as a sentence."""
        assert self._process is not None, "what ends was started"
        try:
            code = await asyncio.wait_for(self._process.wait(), 2.0)
        except TimeoutError:
            return "The engine process closed its socket and goes on."
        if code == -signal.SIGKILL:
            return "The engine process was killed (SIGKILL): by hand, or for lack of memory."
        if code < 0:
            return f"The engine process was killed by {signal.Signals(-code).name}."
        return f"The engine process ended with exit code {code}; the log above says why."

    async def stop(self) -> None:
        """Closes the socket, which ends the engine process, and waits for it."""
        if self._writer is not None:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), 5.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._pulse_pipe is not None:
            self._pulse_pipe.close()

    # --- plans ---------------------------------------------------------------------------------

    async def submit(self, call: PlanCall, held: bool) -> PlanEvents:
        """Starts a plan call and returns the queue of its plan's events; None in it means that the
        engine process is gone or silent. Close it with `unsubscribe`. Raises the engine's refusal."""
        queue: PlanEvents = asyncio.Queue()
        self._queues.setdefault(call.key, set()).add(queue)
        asking = asyncio.ensure_future(self.ask(lambda number: ipc.Submit(number, call, held)))
        try:
            answer = await asyncio.shield(asking)
            if isinstance(answer, ipc.Refused):
                raise answer.problem.error()
        except BaseException:
            self.unsubscribe(call.key, queue)
            asking.add_done_callback(lambda done: self._cancel_unless_refused(call.key, done))
            raise
        return queue

    def _cancel_unless_refused(self, key: str, asked: asyncio.Future[ipc.Answer]) -> None:
        """The caller left before the engine had answered, or the engine fell silent: nobody waits for
        a plan that it took, or takes when it goes on."""
        is_answer = not asked.cancelled() and asked.exception() is None
        if is_answer and isinstance(asked.result(), ipc.Refused):
            return
        if not self.closed.is_set():
            self.send(ipc.Cancel(key))

    def unsubscribe(self, key: str, queue: PlanEvents) -> None:
        queues = self._queues.get(key, set())
        queues.discard(queue)
        if not queues:
            self._queues.pop(key, None)

    def open_calls(self) -> list[str]:
        """Keys of plans that somebody waits for."""
        return sorted(self._queues)

    def lost(self) -> Unavailable:
        """The error of those who wait for an engine process that is gone or silent."""
        return Unavailable(f"The worker's engine process {self.silence or 'is gone'}.")

    def send(self, command: ipc.Command) -> None:
        """Raises Unavailable when the engine process is gone; one that is silent finds it later."""
        if self._writer is None or self.closed.is_set():
            raise self.lost()
        self._writer.write(ipc.encode_frame([command]))

    async def ask(self, make: Callable[[int], ipc.Command]) -> ipc.Answer:
        """Sends a command made with a fresh request number and waits for its answer. Raises
        Unavailable when the engine process is gone or silent."""
        if self.silence:
            raise self.lost()
        request = next(self._requests)
        future: asyncio.Future[ipc.Answer]
        future = self._replies[request] = asyncio.get_running_loop().create_future()
        try:
            self.send(make(request))
            return await future
        finally:
            del self._replies[request]

    async def ask_json(self, make: Callable[[int], ipc.Command]) -> dict[str, object]:
        reply = await self.ask(make)
        assert isinstance(reply, ipc.Reply), "only Resync is answered by a snapshot"
        body: dict[str, object] = json.loads(reply.body)
        return body

    # --- reading -------------------------------------------------------------------------------

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        try:
            while data := await reader.read(1 << 18):
                buffer += data
                for body in ipc.split_frames(buffer):
                    for event in ipc.decode_events(body):
                        self._dispatch(event)
        except ConnectionError:
            logger.warning("the engine process broke the connection")
        finally:
            self._lose()

    def _dispatch(self, event: ipc.Event) -> None:
        match event:
            case ipc.Token() | ipc.Stepped() | ipc.Failed():
                for queue in self._queues.get(event.key, ()):
                    queue.put_nowait(event)
            case ipc.Blocks():
                self._on_blocks(event)
            case ipc.Stats():
                self._note(event)
            case ipc.Reply() | ipc.Snapshot() | ipc.Accepted() | ipc.Refused():
                future = self._replies.get(event.request)
                if future is not None and not future.done():  # who asked may have left
                    future.set_result(event)
            case ipc.Ready():
                self._ready.set_result(event)
            case ipc.FailedStart():
                self._ready.set_exception(ConfigError(event.detail))

    def _note(self, event: ipc.Stats) -> None:
        self.stats = event
        self._pulse.said_stats()
        stats = event.stats
        if stats.draining and not (stats.running or stats.waiting or stats.tickets):
            self._drained.set()

    def _lose(self) -> None:
        self.closed.set()
        if not self._ready.done():
            self._ready.set_exception(
                ConfigError("The engine process ended while it started; its last lines say why.")
            )
        self._interrupt()

    def _interrupt(self) -> None:
        """Nobody waits any longer for what may never come."""
        for queues in self._queues.values():
            for queue in queues:
                queue.put_nowait(None)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(self.lost())
