"""The state of one request under way, and of one attempt at it. Changed only by the executor."""

from asyncio import Timeout
from dataclasses import dataclass, field
from typing import Literal, Protocol

from msgspec.structs import replace

from mserve.compiler.plan import WorkerName
from mserve.runtime.chunks import end_reason
from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Finish, Sampling
from mserve.runtime.router.dispatch import Outgoing, Stage
from mserve.runtime.router.placement import Placed, Query
from mserve.runtime.router.plans import AttemptRecord, PlanRecord, StepRecord
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.reservations import Reservation

NO_STAGE = Stage(())


class Sink(Protocol):
    """Where an answer goes. It is awaited: a slow reader slows its worker down, nothing piles up."""

    def placed(self, plan_id: str, route: str, version: int) -> None:
        """A plan was made, by this version of the strategy; again after each failed attempt."""
        ...

    async def tokens(self, payload: bytes) -> None:
        """The next piece of the answer, as the worker rendered it."""
        ...

    async def finish(self, finish: Finish) -> None:
        """The answer is whole; counts are those of the request, not of the last attempt."""
        ...


@dataclass(slots=True, eq=False)
class Answer:
    """One request under way. `generated` holds the ids of all tokens streamed, int32 little endian.

    The next attempt's prompt is the request's plus `generated`, so a token is never asked for twice.
    """

    request: GenerationRequest
    sink: Sink
    record: PlanRecord
    deadline: float  # on the loop's clock: for the first token, and anew when a stream breaks off
    generated: bytearray = field(default_factory=bytearray)
    last_payload: bytes = b""  # the last bytes that went out
    excluded: set[WorkerName] = field(default_factory=set)
    num_dispatched: int = 0
    num_retries: int = 0
    num_at_renewal: int = 0  # tokens streamed when the deadline was renewed last
    cause: RequestError | None = None  # of the last failed attempt
    finish: Finish | None = None

    @property
    def tokens(self) -> bytes:
        return self.request.tokens + self.generated if self.generated else self.request.tokens

    @property
    def num_generated(self) -> int:
        return len(self.generated) // 4

    @property
    def remaining(self) -> int:
        return self.request.sampling.max_tokens - self.num_generated

    @property
    def ending(self) -> Literal["stop", "length"] | None:
        """Why the answer is over although no worker has said so: its last bytes do, or its length."""
        is_event = self.request.render.kind != "text"  # bare text may look like anything
        if is_event and end_reason(self.last_payload) == "stop":
            return "stop"
        return "length" if self.remaining == 0 else None

    def query(self) -> Query:
        attempt = self.record.num_attempts
        return Query(self.request, self.tokens, self.remaining, attempt, self.excluded)

    def outgoing(self, deadline_s: float | None) -> Outgoing:
        """What the calls of the next stage carry: the first token of it is wanted in `deadline_s`.
        Counts up: every stage has its own number."""
        request, number = self.request, self.num_dispatched
        self.num_dispatched += 1
        render = request.render
        if self.last_payload:
            render = replace(render, first=False)
        priority = float(request.facts.get("priority", 0.0))
        return Outgoing(
            self.record.id,
            number,
            self.tokens,
            self._sampling(),
            render,
            request.salt,
            priority,
            deadline_s,
        )

    def _sampling(self) -> Sampling:
        """What is left to generate. The seed stays: draws are keyed by absolute position."""
        sampling = self.request.sampling
        if not self.generated:
            return sampling
        least = max(0, sampling.min_tokens - self.num_generated)
        return replace(
            sampling,
            max_tokens=self.remaining,
            min_tokens=least,
            answered=self.num_generated,
        )


@dataclass(slots=True, eq=False)
class Attempt:
    """One decision being carried out for `answer`."""

    answer: Answer
    placed: Placed
    record: AttemptRecord
    reservation: Reservation
    stage: Stage = NO_STAGE
    is_last_stage: bool = True
    num_before: int = 0  # tokens streamed before the current stage
    stage_finish: Finish | None = None
    lost: WorkerInfo | None = None
    scope: Timeout | None = None
    generating: StepRecord | None = None  # what streams now

    def lose(self, info: WorkerInfo) -> None:
        """The registry has not heard from a worker of this plan: ends the attempt."""
        self.lost = info
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(0.0)

    def streaming(self, worker: WorkerName, num_tokens: int) -> None:
        """The answer flows: the deadline was for its beginning."""
        if self.generating is None or self.generating.step.worker != worker:
            self.generating = self.record.generating(worker)
        if self.generating is not None:
            self.generating.streamed += num_tokens
        scope = self.scope
        if scope is None or scope.when() is None or scope.expired() or self.lost is not None:
            return
        scope.reschedule(None)
