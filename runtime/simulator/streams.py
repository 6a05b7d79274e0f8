"""One plan call between the router and a simulated worker: frames that come in time, without text.

A frame stands for the tokens of many steps: the router is told of an answer's first token, of every
`FRAME_TOKENS` more, and of its end. Stands where HttpClient and a worker's HTTP front are; knows no
engine.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from msgspec.structs import replace

from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Finish, Frame, FrameKind, PlanCall, StepReport, encode
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.worker import ipc

FRAME_TOKENS: Final = 32
"""The router's idea of a worker's load is off by at most so many tokens for each answer."""


class Stream:
    """The answer to one call. The worker `take`s events and then `flush`es; `latency_s` later the
    reader of `frames` has them."""

    def __init__(
        self, call: PlanCall, clock: VirtualClock, latency_s: float, kv_bytes_per_token: float = 1.0
    ) -> None:
        self.call = call
        self._kv_bytes_per_token = kv_bytes_per_token
        self._clock = clock
        self._latency_s = latency_s
        self._pending = {step.step for step in call.steps}  # have not ended
        self._out: list[Frame] = []
        self._num_tokens = 0
        self._num_unsent = 0
        self._error: RequestError | None = None
        self._inbox: list[Frame] = []
        self._has_ended = False  # and the reader can know it
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        """Nothing more will come from the worker."""
        return self._error is not None or not self._pending

    # --- the worker's side ---------------------------------------------------------------------

    def take(self, event: ipc.Stepped | ipc.Token | ipc.Failed) -> bool:
        """True if there is something to flush."""
        match event:
            case ipc.Token():
                self._token(event)
            case ipc.Stepped():
                self._report(event.report)
            case ipc.Failed():
                self._pending.clear()
                self._out.append(Frame(FrameKind.PROBLEM, payload=encode(event.problem)))
        return bool(self._out)

    def flush(self) -> None:
        """What has been taken goes out."""
        frames, self._out = self._out, []
        arrival_s = self._clock.now() + self._latency_s
        if self.is_over:
            self._clock.call_at(arrival_s, lambda: self._arrive(frames, is_last=True))
        else:
            self._clock.call_at(arrival_s, lambda: self._arrive(frames))

    def fail(self, error: RequestError) -> None:
        """The worker refuses the call, or is gone."""
        if not self.is_over:
            self._error = error
            self.flush()

    def _token(self, event: ipc.Token) -> None:
        self._num_unsent += event.count
        is_first, self._num_tokens = not self._num_tokens, self._num_tokens + event.count
        if is_first or event.finish or self._num_unsent >= FRAME_TOKENS:
            self._out.append(Frame(FrameKind.TOKENS, bytes(4 * self._num_unsent)))
            self._num_unsent = 0
        if event.finish:
            finish = Finish(
                "length" if event.finish == "length" else "stop",
                event.prompt_tokens,
                self._num_tokens,
                event.cached_tokens,
            )
            self._out.append(Frame(FrameKind.FINISH, payload=encode(finish)))
        if event.report is not None:
            self._report(event.report)

    def _report(self, report: StepReport) -> None:
        if report.step in self._pending:
            if report.state == "done":
                self._pending.discard(report.step)
            if report.sent_bytes or report.received_bytes:
                report = self._priced(report)
            self._out.append(Frame(FrameKind.STEP, payload=encode(report)))

    def _priced(self, report: StepReport) -> StepReport:
        """With the bytes that the KV of its tokens has; the engine moves one for each."""
        return replace(
            report,
            sent_bytes=round(report.sent_bytes * self._kv_bytes_per_token),
            received_bytes=round(report.received_bytes * self._kv_bytes_per_token),
        )

    # --- the router's side ---------------------------------------------------------------------

    async def frames(self, leave: Callable[["Stream"], None]) -> AsyncGenerator[Frame, None]:
        """Raises the worker's refusal, or WorkerLost. Calls `leave` if it is closed before the
        end."""
        try:
            while not self._has_ended:
                if not self._inbox:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
                frames, self._inbox = self._inbox, []
                for frame in frames:
                    yield frame
            if self._error is not None:
                raise self._error
        finally:
            if not self._has_ended:
                leave(self)

    def _arrive(self, frames: list[Frame], *, is_last: bool = False) -> None:
        self._inbox += frames
        self._has_ended = self._has_ended or is_last
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
