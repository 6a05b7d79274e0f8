"""Traffic against a real server: every request at its time, or the next one when one has ended.

The open loop never waits for answers, so a server that falls behind is seen to (and not, as by clients
that wait, asked less). Owns when requests go out and what is kept of each; nothing is lost, failures
are outcomes. Knows neither HTTP nor what requests contain.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mserve.runtime.clock import Clock
from mserve.runtime.traffic.answers import AnswerReader, StreamedAnswer
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.outcomes import Outcome

LATE_S = 0.05
"""A request that goes out so much after its time says that this client is too slow."""


class Requests(Protocol):
    """How an arrival becomes a request."""

    def body(self, arrival: Arrival) -> bytes: ...

    async def send(self, body: bytes, reader: AnswerReader) -> None:
        """Returns at the answer's end. Raises OSError."""
        ...


@dataclass(slots=True)
class Progress:
    """A run so far. Times of outcomes are seconds since the run began."""

    num_arrivals: int
    outcomes: list[Outcome] = field(default_factory=list)
    num_sent: int = 0
    num_late: int = 0
    max_lag_s: float = 0.0
    num_short: int = 0  # answers that ended before their length
    examples: dict[str, str] = field(default_factory=dict)  # words of the first error of each kind

    @property
    def num_running(self) -> int:
        return self.num_sent - len(self.outcomes)

    @property
    def num_failed(self) -> int:
        return sum(1 for outcome in self.outcomes if outcome.error)


class Replay:
    """Sends arrivals, each once. `progress` can be read at any time, also after a cancellation."""

    def __init__(
        self, requests: Requests, clock: Clock, arrivals: Sequence[Arrival], timeout_s: float
    ) -> None:
        self._requests = requests
        self._clock = clock
        self._arrivals = arrivals
        self._timeout_s = timeout_s
        self._begin_s = 0.0  # on the clock
        self.progress = Progress(len(arrivals))

    async def open_loop(self) -> None:
        """Each at its time, however many are under way."""
        self._begin_s = self._clock.now()
        first_s = self._arrivals[0].at_s if self._arrivals else 0.0
        async with asyncio.TaskGroup() as group:
            for arrival in self._arrivals:
                body = self._requests.body(arrival)  # made while there is time
                due_s = arrival.at_s - first_s
                await self._clock.sleep(max(0.0, due_s - self._elapsed_s()))
                group.create_task(self._request(arrival, body, due_s))

    async def closed_loop(self, concurrency: int) -> None:
        """So many under way at once, in the order of arrivals, whose times do not count."""
        assert concurrency > 0, "Somebody must send."
        self._begin_s = self._clock.now()
        arrivals = iter(self._arrivals)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(self._arrivals))):
                group.create_task(self._one_after_another(arrivals))

    async def _one_after_another(self, arrivals: Iterator[Arrival]) -> None:
        for arrival in arrivals:
            body = self._requests.body(arrival)
            await self._request(arrival, body, self._elapsed_s())

    async def _request(self, arrival: Arrival, body: bytes, due_s: float) -> None:
        self._sent(self._elapsed_s() - due_s)
        answer = StreamedAnswer()
        failure = await self._failure(body, answer)
        self._keep(arrival, answer, due_s, failure)

    def _sent(self, lag_s: float) -> None:
        progress = self.progress
        progress.num_sent += 1
        progress.num_late += lag_s > LATE_S
        progress.max_lag_s = max(progress.max_lag_s, lag_s)

    async def _failure(self, body: bytes, answer: StreamedAnswer) -> tuple[str, str] | None:
        """Sends, and returns (kind, words) of what went wrong."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._requests.send(body, answer)
        except TimeoutError:
            return "timeout", f"No whole answer within {self._timeout_s:g} s."
        except OSError as error:
            if answer.is_done:
                return answer.ended()  # some servers end answers by closing connections
            kind = "connection lost" if answer.status else "no connection"
            return answer.failure or (kind, f"{error}.")
        return answer.ended()

    def _keep(
        self,
        arrival: Arrival,
        answer: StreamedAnswer,
        due_s: float,
        failure: tuple[str, str] | None,
    ) -> None:
        kind, words = failure or ("", "")
        if failure is not None:
            self.progress.examples.setdefault(kind, words)
        elif answer.num_output < arrival.num_output:
            self.progress.num_short += 1
        ended_s = self._elapsed_s()
        if failure is None and answer.last_s is not None:
            ended_s = answer.last_s - self._begin_s
        usage = answer.usage
        outcome = Outcome(
            arrival_s=due_s,
            first_token_s=None if answer.first_s is None else answer.first_s - self._begin_s,
            ended_s=ended_s,
            num_prompt=(usage.prompt_tokens if usage else 0) or arrival.num_prompt,
            num_output=answer.num_output,
            cached=usage.cached if usage else 0,
            route=answer.route,
            error=kind,
            max_gap_s=answer.max_gap_s,
        )
        self.progress.outcomes.append(outcome)

    def _elapsed_s(self) -> float:
        return self._clock.now() - self._begin_s
