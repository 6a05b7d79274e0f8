"""An answer reaches the router in few frames: its first token, every so many more, and its end."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, closing

import pytest

from mserve.runtime.errors import WorkerLost
from mserve.runtime.messages import (
    FrameKind,
    PlanCall,
    Sampling,
    StartGenerateCall,
    StepReport,
    decode_finish,
    pack_tokens,
)
from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.simulator.streams import FRAME_TOKENS, Stream
from mserve.runtime.worker import ipc

LATENCY_S = 0.5
CALL = PlanCall("p", pack_tokens([1, 2]), (StartGenerateCall("g", 0, Sampling(max_tokens=99)),))
Entry = tuple[float, FrameKind, int]


class Reader:
    """Reads one stream and notes (virtual seconds, kind, tokens) of each frame."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.stream = Stream(CALL, self.clock, LATENCY_S)
        self.seen: list[Entry] = []
        self.num_output = 0
        self.left: list[Stream] = []

    def play(self, *acts: tuple[float, Callable[[], None]], stop_after: int = 99) -> list[Entry]:
        async def main() -> None:
            for at_s, act in acts:
                self.clock.call_at(at_s, act)
            async with aclosing(self.stream.frames(self.left.append)) as frames:
                async for frame in frames:
                    self.seen.append((self.clock.now(), frame.kind, frame.num_tokens))
                    if frame.kind is FrameKind.FINISH:
                        self.num_output = decode_finish(frame.payload).completion_tokens
                    if len(self.seen) == stop_after:
                        break

        with closing(self.loop):
            self.loop.run(main())
        return self.seen

    def tokens(self, count: int, finish: str = "") -> Callable[[], None]:
        report = StepReport("g", "done", 0.0, 1.0) if finish else None
        event = ipc.Token("p/0", "g", 0, finish, report=report, count=count)

        def say() -> None:
            if self.stream.take(event):
                self.stream.flush()

        return say


def test_a_frame_for_the_first_token_for_many_more_and_for_the_end() -> None:
    reader = Reader()
    seen = reader.play(
        (1.0, reader.tokens(1)),
        (2.0, reader.tokens(FRAME_TOKENS - 1)),
        (3.0, reader.tokens(1)),
        (4.0, reader.tokens(5)),
        (5.0, reader.tokens(2, "length")),
    )
    assert seen == [
        (1.5, FrameKind.TOKENS, 1),
        (3.5, FrameKind.TOKENS, FRAME_TOKENS),
        (5.5, FrameKind.TOKENS, 7),
        (5.5, FrameKind.FINISH, 0),
        (5.5, FrameKind.STEP, 0),
    ]
    assert reader.num_output == FRAME_TOKENS + 8
    assert not reader.left


def test_who_leaves_early_is_missed() -> None:
    reader = Reader()
    reader.play((1.0, reader.tokens(1)), stop_after=1)
    assert reader.left == [reader.stream]


def test_a_worker_that_dies_breaks_the_stream_after_what_came_before() -> None:
    reader = Reader()
    lost = WorkerLost("it died")
    with pytest.raises(WorkerLost, match="it died"):
        reader.play((1.0, reader.tokens(1)), (2.0, lambda: reader.stream.fail(lost)))
    assert reader.seen == [(1.5, FrameKind.TOKENS, 1)]
    assert not reader.left


def test_a_reader_that_is_cancelled_leaves() -> None:
    reader = Reader()

    async def main() -> None:
        async def read() -> None:
            async with aclosing(reader.stream.frames(reader.left.append)) as frames:
                async for _ in frames:
                    pass

        task = asyncio.ensure_future(read())
        await reader.clock.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with closing(reader.loop):
        reader.loop.run(main())
    assert reader.left == [reader.stream]
