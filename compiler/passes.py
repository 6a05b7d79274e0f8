"""From the segments of a route to the steps of a plan, one small pure pass after another.

A `Draft` says where each range of the prompt is computed; every pass returns a better one, the last
ones with steps. Knows positions and workers, no expressions; what must hold is verify.py's.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from mserve.compiler.plan import (
    FIRST_TOKEN,
    Commit,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
    StepName,
    TicketName,
    WorkerName,
)


class Segment(NamedTuple):
    """`worker` computes (or has) the KV of tokens `[begin, end)`."""

    worker: WorkerName
    begin: int
    end: int


class Replica(NamedTuple):
    """`worker` keeps a copy of `[0, end)` after the first token."""

    worker: WorkerName
    end: int


class Handoff(NamedTuple):
    """Decode moves to `worker` once the KV of `[0, end)`, end = prompt + K - 1, is there."""

    worker: WorkerName
    end: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan in the making. `segments` join and cover `[0, num_tokens)`; the last is on `generator`.

    `cached` maps each worker to the length of the prefix it has; workers left out have none.
    """

    num_tokens: int
    generator: WorkerName
    segments: tuple[Segment, ...]
    cached: Mapping[WorkerName, int]
    handoff: Handoff | None = None
    replicas: tuple[Replica, ...] = ()
    steps: tuple[Step, ...] = ()


Pass = Callable[[Draft], Draft]


def cut_segments(draft: Draft) -> Draft:
    """Leaves the last token, whose logits begin the answer, to the generating worker."""
    last = draft.num_tokens - 1
    cut, begin = [], 0
    for worker, _, end in draft.segments:
        end = max(begin, end if worker == draft.generator else min(end, last))
        cut.append(Segment(worker, begin, end))
        begin = end
    return replace_segments(draft, cut)


def drop_empty(draft: Draft) -> Draft:
    """Drops segments without a token; they make neighbours of those around them."""
    return replace_segments(draft, [s for s in draft.segments if s.begin < s.end])


def merge_segments(draft: Draft) -> Draft:
    """Makes one segment of neighbours on the same worker."""
    merged: list[Segment] = []
    for segment in draft.segments:
        if merged and merged[-1].worker == segment.worker:
            segment = Segment(segment.worker, merged.pop().begin, segment.end)
        merged.append(segment)
    return replace_segments(draft, merged)


def replace_segments(draft: Draft, segments: list[Segment]) -> Draft:
    """`dataclasses.replace`, at a third of its price: this runs for every request."""
    after = tuple(segments)
    if after == draft.segments:
        return draft
    return Draft(
        draft.num_tokens,
        draft.generator,
        after,
        draft.cached,
        draft.handoff,
        draft.replicas,
        draft.steps,
    )


def derive_transfers(draft: Draft) -> Draft:
    """Turns segments into steps: each worker gets a ticket for every part it needs and lacks."""
    return replace(draft, steps=tuple(_Transfers(draft).steps()))


class _Transfers:
    """Derives the steps of one draft; numbers tickets and steps as it goes."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._needed = _needed_segments(draft)
        self._waiting: dict[WorkerName, list[TicketName]] = {}  # received, not used yet
        self._latest: dict[WorkerName, StepName] = {}  # the worker's last computing step
        self._num_steps = 0
        self._num_tickets = 0

    def steps(self) -> Iterator[Step]:
        *segments, last = self._draft.segments
        for index, segment in enumerate(segments):
            if self._needed[index]:
                yield from self._compute(index, segment)
        yield from self._generate(last)

    def _compute(self, index: int, segment: Segment) -> Iterator[Step]:
        """`segment.worker` computes its part and sends it to everyone who needs it."""
        receivers = self._receivers(index)
        for receiver in receivers:
            yield from self._transfer(segment, receiver)
        if not receivers and self._missing(segment.worker, segment.end):
            yield self._send(segment, ())

    def _receivers(self, index: int) -> list[WorkerName]:
        """Other workers that compute a later part and do not have this one, in order of need."""
        sender, _, end = self._draft.segments[index]
        later = [
            segment.worker
            for segment, needed in self._after(index)
            if needed and self._computes(segment) and self._missing(segment.worker, end)
        ]
        return [worker for worker in dict.fromkeys(later) if worker != sender]

    def _after(self, index: int) -> Iterator[tuple[Segment, bool]]:
        start = index + 1
        return zip(self._draft.segments[start:], self._needed[start:], strict=True)

    def _computes(self, segment: Segment) -> bool:
        is_last = segment is self._draft.segments[-1]
        return is_last or self._missing(segment.worker, segment.end)

    def _missing(self, worker: WorkerName, end: int) -> bool:
        return self._draft.cached.get(worker, 0) < end

    def _transfer(self, segment: Segment, receiver: WorkerName) -> Iterator[Step]:
        ticket = self._ticket()
        yield PrepRecv(self._step(), receiver, segment.begin, segment.end, ticket)
        yield self._send(segment, (ticket,))
        self._waiting.setdefault(receiver, []).append(ticket)

    def _send(self, segment: Segment, to: tuple[TicketName, ...]) -> RemoteSend:
        worker, begin, end = segment
        after = self._after_latest(worker)
        # What is cached whole is sent without its prefix.
        uses = self._take_tickets(worker) if self._missing(worker, end) else ()
        step = self._latest[worker] = self._step()
        return RemoteSend(step, worker, begin, end, to, uses, after)

    def _generate(self, last: Segment) -> Iterator[Step]:
        draft, worker = self._draft, last.worker
        uses, after = self._take_tickets(worker), self._after_latest(worker)
        begin = last.begin if uses or after else 0  # nothing comes from elsewhere: a whole request
        step = self._step()
        max_tokens = draft.handoff.end - draft.num_tokens + 1 if draft.handoff else None
        yield StartGenerate(step, worker, begin, uses, max_tokens, after)
        yield from self._follow_first_token(step)

    def _follow_first_token(self, first: StepName) -> Iterator[Step]:
        """Copies of the generating worker's KV: to where decode goes on, to whom keeps it as cache.

        All sends stand before all that waits for them, so that sends of one range can become one.
        """
        draft, commits, moved = self._draft, [], None
        if draft.handoff is not None:
            moved = yield from self._copy(first, *draft.handoff)
        for worker, end in self._replicas():
            ticket, send = yield from self._copy(first, worker, end)
            commits.append((worker, ticket, send))
        for worker, ticket, send in commits:
            yield Commit(self._step(), worker, ticket, (send,))
        if draft.handoff is not None and moved is not None:  # the last token decoded has no KV yet
            worker, end = draft.handoff
            yield StartGenerate(self._step(), worker, end, (moved[0],), None, (first,))

    def _replicas(self) -> list[Replica]:
        """Those whose worker will not have the range anyway."""
        draft = self._draft
        has_it = {draft.generator, draft.handoff.worker if draft.handoff else None}
        return [r for r in draft.replicas if r.worker not in has_it and self._missing(*r)]

    def _copy(
        self, first: StepName, worker: WorkerName, end: int
    ) -> Generator[Step, None, tuple[TicketName, StepName]]:
        """Sends `[0, end)` to `worker` after the first token; returns the ticket and the send."""
        ticket, after = self._ticket(), (first + FIRST_TOKEN,)
        yield PrepRecv(self._step(), worker, 0, end, ticket)
        send = self._step()
        yield RemoteSend(send, self._draft.generator, 0, end, (ticket,), (), after)
        return ticket, send

    def _take_tickets(self, worker: WorkerName) -> tuple[TicketName, ...]:
        return tuple(self._waiting.pop(worker, ()))

    def _after_latest(self, worker: WorkerName) -> tuple[StepName, ...]:
        """A later step of a worker builds on what its earlier step computed or received."""
        return (self._latest[worker],) if worker in self._latest else ()

    def _step(self) -> StepName:
        self._num_steps += 1
        return f"s{self._num_steps}"

    def _ticket(self) -> TicketName:
        self._num_tickets += 1
        return f"t{self._num_tickets}"


def _needed_segments(draft: Draft) -> list[bool]:
    """Which segments somebody needs, from the last backwards: what all later workers have cached
    is neither computed nor sent."""
    segments, cached = draft.segments, draft.cached
    needed = [False] * len(segments)
    needed[-1] = True
    for later in range(len(segments) - 1, 0, -1):
        worker, _, end = segments[later]
        has = cached.get(worker, 0)
        if not needed[later] or (has >= end and later < len(segments) - 1):
            continue
        for earlier in range(later):
            needed[earlier] |= has < segments[earlier].end
    return needed


def share_sends(draft: Draft) -> Draft:
    """Makes one step of a worker's sends of the same range, so that it is computed and read once."""
    groups: dict[tuple[object, ...], list[RemoteSend]] = {}
    for step in draft.steps:
        if isinstance(step, RemoteSend):
            groups.setdefault(_sharing_key(step), []).append(step)
    last = {group[-1].id: group for group in groups.values()}
    merged = {step.id: group[-1].id for group in groups.values() for step in group}
    kept = [
        _share(last[step.id]) if isinstance(step, RemoteSend) else step
        for step in draft.steps
        if step.id in last or not isinstance(step, RemoteSend)
    ]
    return replace(draft, steps=renumber_steps([_rename_after(s, merged) for s in kept]))


def _sharing_key(send: RemoteSend) -> tuple[object, ...]:
    """Sends after the first token wait for it; they never hold up those that come before."""
    waits = tuple(name for name in send.after if name.endswith(FIRST_TOKEN))
    return (send.worker, send.begin, send.end, waits)


def _share(group: list[RemoteSend]) -> RemoteSend:
    """Stands where the last of the group stood: every ticket is registered by then."""
    own = {send.id for send in group}
    after = dict.fromkeys(name for send in group for name in send.after if name not in own)
    return replace(
        group[-1],
        to=tuple(ticket for send in group for ticket in send.to),
        uses=tuple(ticket for send in group for ticket in send.uses),
        after=tuple(after),
    )


def _rename_after(step: Step, names: Mapping[StepName, StepName]) -> Step:
    return replace(step, after=tuple(_renamed(name, names) for name in step.after))


def _renamed(name: StepName, names: Mapping[StepName, StepName]) -> StepName:
    base = name.removesuffix(FIRST_TOKEN)
    return names.get(base, base) + name[len(base) :]


def renumber_steps(steps: list[Step]) -> tuple[Step, ...]:
    """Names the steps s1, s2, ... in the order in which they stand."""
    names = {step.id: f"s{number}" for number, step in enumerate(steps, 1)}
    return tuple(replace(_rename_after(step, names), id=names[step.id]) for step in steps)


SEGMENT_PASSES: tuple[Pass, ...] = (cut_segments, drop_empty, merge_segments)
STEP_PASSES: tuple[Pass, ...] = (derive_transfers, share_sends)
PASSES: tuple[Pass, ...] = SEGMENT_PASSES + STEP_PASSES
