"""When requests go out, and that every one of them becomes an outcome; on a virtual clock."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.loop import VirtualLoop
from mserve.runtime.traffic.answers import AnswerReader
from mserve.runtime.traffic.arrivals import Arrival, unlike_any
from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.replay import Progress, Replay

HEADERS = {"content-type": "text/event-stream", "x-mserve-plan": "1; route=split"}
PIECE = b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n'
END = (
    b'data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":8}}}\n\ndata: [DONE]\n\n'
)


def arrivals(*times_s: float) -> list[Arrival]:
    return [Arrival(at_s, 10, 3, unlike_any(i, 10, 64), 64) for i, at_s in enumerate(times_s)]


@dataclass
class Slow:
    """A server that takes 1 s to the first token and 0.5 s to each of two more."""

    clock: VirtualClock
    sent_s: list[float] = field(default_factory=list)
    num_running: int = 0
    max_running: int = 0

    def body(self, arrival: Arrival) -> bytes:
        return b"%d" % arrival.blocks[0]

    async def send(self, body: bytes, reader: AnswerReader) -> None:
        self.sent_s.append(self.clock.now())
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        try:
            reader.begin(200, HEADERS)
            for delay_s, data in ((1.0, PIECE), (0.5, PIECE), (0.5, END)):
                await self.clock.sleep(delay_s)
                reader.feed(data, self.clock.now())
        finally:
            self.num_running -= 1


Play = Callable[[Replay], Coroutine[Any, Any, None]]


def replay(
    sent: list[Arrival],
    make: Callable[[VirtualClock], Any] = Slow,
    play: Play = Replay.open_loop,
    timeout_s: float = 60.0,
) -> tuple[Any, Progress]:
    async def main(loop: VirtualLoop) -> tuple[Any, Progress]:
        clock = VirtualClock(loop)
        await clock.sleep(7.0)  # a clock has no zero that means something
        requests = make(clock)
        run = Replay(requests, clock, sent, timeout_s)
        await play(run)
        return requests, run.progress

    loop = VirtualLoop()
    try:
        return loop.run(main(loop))
    finally:
        loop.close()


def test_the_open_loop_waits_for_no_answer() -> None:
    server, progress = replay(arrivals(5.0, 5.0, 5.2, 9.0))
    assert server.sent_s == pytest.approx([7.0, 7.0, 7.2, 11.0])
    assert server.max_running == 3
    assert [outcome.arrival_s for outcome in progress.outcomes] == pytest.approx([0, 0, 0.2, 4])
    assert (progress.num_sent, progress.num_running, progress.num_late) == (4, 0, 0)


def test_what_is_kept_of_an_answer() -> None:
    _, progress = replay(arrivals(0.0))
    assert progress.outcomes == [
        Outcome(0.0, 1.0, 2.0, 12, 3, cached=8, route="split", max_gap_s=0.5)
    ]


@pytest.mark.parametrize(("concurrency", "took_s"), [(1, 10.0), (2, 6.0), (9, 2.0)])
def test_the_closed_loop_keeps_so_many_under_way(concurrency: int, took_s: float) -> None:
    server, progress = replay(
        arrivals(*range(5)), play=lambda run: run.closed_loop(concurrency=concurrency)
    )
    assert server.max_running == min(concurrency, 5)
    assert max(outcome.ended_s for outcome in progress.outcomes) == took_s
    assert {outcome.jct_s for outcome in progress.outcomes} == {2.0}


@dataclass
class Failing:
    """Fails in the way that is asked of it, after one token."""

    clock: VirtualClock
    error: Exception | None
    data: bytes = PIECE

    def body(self, arrival: Arrival) -> bytes:
        return b""

    async def send(self, body: bytes, reader: AnswerReader) -> None:
        reader.begin(200, HEADERS)
        await self.clock.sleep(1.0)
        reader.feed(self.data, self.clock.now())
        await self.clock.sleep(1.0)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "data", "kind"),
    [
        (ConnectionResetError("reset"), PIECE, "connection lost"),
        (None, PIECE, "cut off"),
        (None, PIECE + b'data: {"error":{"message":"x","type":"engine"}}\n\n', "engine"),
        (ConnectionResetError("reset"), END, ""),
    ],
)
def test_every_failure_is_an_outcome(error: Exception | None, data: bytes, kind: str) -> None:
    _, progress = replay(arrivals(0.0, 1.0), lambda clock: Failing(clock, error, data))
    assert [outcome.error for outcome in progress.outcomes] == [kind, kind]
    assert progress.outcomes[0].first_token_s == 1.0
    assert progress.outcomes[0].ended_s == (2.0 if kind else 1.0)
    assert set(progress.examples) == ({kind} if kind else set())
    assert progress.num_failed == (2 if kind else 0)


def test_a_request_that_takes_too_long() -> None:
    _, progress = replay(arrivals(0.0), timeout_s=1.25)
    (outcome,) = progress.outcomes
    assert (outcome.error, outcome.ended_s, outcome.num_output) == ("timeout", 1.25, 1)


def test_nobody_there() -> None:
    @dataclass
    class Nobody:
        clock: VirtualClock

        def body(self, arrival: Arrival) -> bytes:
            return b""

        async def send(self, body: bytes, reader: AnswerReader) -> None:
            raise ConnectionRefusedError("refused")

    _, progress = replay(arrivals(0.0), Nobody)
    assert progress.examples == {"no connection": "refused."}
    assert progress.outcomes[0].first_token_s is None


def test_a_client_that_is_too_slow_says_so() -> None:
    class Lagging(VirtualClock):
        """Wakes up late, as a busy process does."""

        async def sleep(self, duration_s: float) -> None:
            await super().sleep(duration_s and duration_s + 0.2)

    _, progress = replay(arrivals(0.0, 1.0, 2.0), lambda clock: Slow(clock))
    assert progress.num_late == 0

    async def main(loop: VirtualLoop) -> Progress:
        clock = Lagging(loop)
        run = Replay(Slow(clock), clock, arrivals(0.0, 1.0, 2.0), 60.0)
        await run.open_loop()
        return run.progress

    loop = VirtualLoop()
    progress = loop.run(main(loop))
    loop.close()
    assert progress.num_late == 2
    assert progress.max_lag_s == pytest.approx(0.2)
    assert progress.outcomes[1].arrival_s == 1.0  # its waiting here counts


def test_short_answers_are_counted() -> None:
    long = [Arrival(0.0, 10, 4, unlike_any(0, 10, 64), 64)]
    assert replay(long)[1].num_short == 1
    assert replay(arrivals(0.0))[1].num_short == 0


def test_an_interrupted_run_keeps_what_there_is() -> None:
    async def interrupted(run: Replay) -> None:
        playing = asyncio.ensure_future(run.open_loop())
        await asyncio.sleep(2.5)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing

    _, progress = replay(arrivals(0.0, 1.0, 9.0), play=interrupted)
    assert [outcome.ended_s for outcome in progress.outcomes] == [2.0]
    assert (progress.num_sent, progress.num_running) == (2, 1)
