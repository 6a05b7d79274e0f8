"""One plan call between the router and a virtual worker: a connection with latency and a window.

Pieces of the answer arrive in order; a worker that dies breaks the connection, the router's leaving
cancels the call at the worker. Stands where HttpClient and a worker's HTTP front are.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from mserve.runtime.errors import RequestError, Unreachable, WorkerLost
from mserve.runtime.messages import Frame, FrameDecoder, PlanCall
from mserve.runtime.router.client import merge_tokens
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.worker import VirtualWorker

WINDOW_PIECES: Final = 16  # unread pieces at which the worker stops writing

Piece = bytes | RequestError | None  # None: the end of the answer


class Connection:
    """Used once. `worker` is None where nobody listens at the address any more."""

    def __init__(
        self,
        worker: VirtualWorker | None,
        call: PlanCall,
        clock: VirtualClock,
        latency: Callable[[], float],
    ) -> None:
        self._worker = worker
        self._call = call
        self._clock = clock
        self._latency = latency
        self._inbox: deque[Piece] = deque()
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._num_unread = 0
        self._arrival_s = 0.0  # of the last piece
        self._asked_s = 0.0  # when the request reaches the worker
        self._is_closed = False  # the worker is gone: nothing more is sent
        self._is_void = False  # nor does anything arrive
        self._task: asyncio.Task[None] | None = None

    # --- the router's side ---------------------------------------------------------------------

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Raises the worker's refusal, or WorkerLost. Closing it cancels the call."""
        decoder = FrameDecoder()
        self._ask()
        try:
            while True:
                pieces = await self._pieces()
                data = b"".join([piece for piece in pieces if isinstance(piece, bytes)])
                for frame in merge_tokens(list(decoder.feed(data))):
                    yield frame
                if isinstance(pieces[-1], RequestError):
                    raise pieces[-1]
                if pieces[-1] is None:
                    return
        finally:
            self._hang_up()

    def _ask(self) -> None:
        worker = self._worker
        self._asked_s = self._clock.now() + self._latency()
        if worker is None or worker.is_dead:
            self._post(Unreachable("nobody listens at the worker's address"))
            return
        worker.on_death(self._break)
        self._clock.call_at(self._asked_s, lambda: worker.reach(self._accept))

    async def _pieces(self) -> list[Piece]:
        """All that are there, at least one; an end or an error comes last."""
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
        pieces = list(self._inbox)
        self._inbox.clear()
        self._num_unread -= len(pieces)
        if self._worker is not None:
            self._worker.reach(self._has_room.set)
        return pieces

    def _hang_up(self) -> None:
        """The worker sees it after the request, however soon it comes."""
        worker = self._worker
        if worker is not None and not worker.is_dead:
            when = max(self._clock.now() + self._latency(), self._asked_s)
            self._clock.call_at(when, lambda: worker.reach(self._abort))

    # --- the worker's side ---------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._worker is not None, "a call is accepted by a worker"
        self._task = asyncio.get_running_loop().create_task(
            self._serve(self._worker), name=f"{self._worker.spec.name} serves {self._call.key}"
        )

    async def _serve(self, worker: VirtualWorker) -> None:
        try:
            async with aclosing(worker.app.run_plan(self._call)) as frames:
                async for out in frames:
                    if out:
                        await self._write(out)
            self._post(None)
        except RequestError as error:
            self._post(error)
        finally:
            self._leave()

    async def _write(self, out: bytes) -> None:
        self._post(out)
        while self._num_unread >= WINDOW_PIECES:
            self._has_room.clear()
            await self._has_room.wait()

    def _abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._leave()

    def _leave(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None and not worker.is_dead:
            worker.forget_death(self._break)

    def _break(self, lose_in_flight: bool) -> None:
        """The worker has died."""
        if self._task is not None:
            self._task.cancel()
        lost = WorkerLost("the worker closed the connection")
        self._is_void = lose_in_flight
        if lose_in_flight:
            self._clock.call_after(self._latency(), lambda: self._take(lost))
        else:
            self._post(lost)
        self._is_closed = True

    # --- on the way ----------------------------------------------------------------------------

    def _post(self, piece: Piece) -> None:
        if self._is_closed:
            return
        self._num_unread += 1
        self._arrival_s = max(self._arrival_s, self._clock.now() + self._latency())
        self._clock.call_at(self._arrival_s, lambda: self._arrive(piece))

    def _arrive(self, piece: Piece) -> None:
        if not self._is_void:
            self._take(piece)

    def _take(self, piece: Piece) -> None:
        self._inbox.append(piece)
        self._arrived.set()
