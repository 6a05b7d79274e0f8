"""From where each range is computed to the plan of a request, by shapes.

A *shape* is all that decides a plan's steps: which workers coincide, which ranges are empty, which
prefixes are cached whole. Its template is derived and verified once, over positions that stand for
bounds; a request's plan is the template filled in with its workers and numbers. Knows no expressions.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mserve.compiler.passes import (
    PASSES,
    SEGMENT_PASSES,
    Draft,
    Handoff,
    Pass,
    Replica,
    Segment,
)
from mserve.compiler.plan import (
    Commit,
    Plan,
    PrepRecv,
    Release,
    RemoteSend,
    StartGenerate,
    Step,
    WorkerName,
)
from mserve.compiler.verify import PlanError, verify_plan


class Shape(NamedTuple):
    """Workers and positions by number: workers as they first occur, positions in rising order.

    `cached[w]` is the highest position up to which worker w has everything cached.
    """

    segments: tuple[tuple[int, int, int], ...]  # worker, begin, end
    num_tokens: int
    cached: tuple[int, ...]
    handoff: tuple[int, int] | None
    replicas: tuple[tuple[int, int], ...]


class Filling(NamedTuple):
    """What the numbers of a shape stand for in one request."""

    workers: list[WorkerName]
    positions: list[int]
    num_tokens: int


StepFiller = Callable[[Filling], Step]


@dataclass(frozen=True, slots=True)
class Template:
    """`plan` is over a shape's numbers; `fillers` make its steps with a request's."""

    plan: Plan
    fillers: tuple[StepFiller, ...]

    def fill(self, filling: Filling) -> tuple[Step, ...]:
        return tuple([filler(filling) for filler in self.fillers])


class Lowering:
    """Turns drafts into plans and keeps the template of every shape it has met."""

    def __init__(self) -> None:
        self._templates: dict[Shape, Template] = {}

    def plan(self, strategy: str, route: str, draft: Draft) -> Plan:
        """The plan of `draft`, whose segments join but may be empty, repeat a worker or reach the
        last token on any worker."""
        draft = simplify(draft)
        shape, filling = shape_of(draft)
        template = self._templates.get(shape)
        if template is None:
            template = self._templates[shape] = make_template(shape)
        return Plan(strategy, route, draft.num_tokens, template.fill(filling))


def simplify(draft: Draft) -> Draft:
    """Runs the passes over segments: what is left decides the shape."""
    for run in SEGMENT_PASSES:
        draft = run(draft)
    return draft


def shape_of(draft: Draft) -> tuple[Shape, Filling]:
    """The shape of a simplified draft, and what fills it."""
    positions = _positions(draft)
    position = {value: index for index, value in enumerate(positions)}
    numbers: dict[WorkerName, int] = {}
    segments = tuple(
        [
            (numbers.setdefault(worker, len(numbers)), position[begin], position[end])
            for worker, begin, end in draft.segments
        ]
    )
    copies = [draft.handoff, *draft.replicas] if draft.handoff or draft.replicas else ()
    targets = [
        copy and (numbers.setdefault(copy.worker, len(numbers)), position[copy.end])
        for copy in copies
    ]
    handoff, replicas = (targets[0], tuple(t for t in targets[1:] if t)) if targets else (None, ())
    workers = list(numbers)
    cached = draft.cached
    lengths = [bisect_right(positions, cached.get(worker, 0)) - 1 for worker in workers]
    shape = Shape(segments, position[draft.num_tokens], tuple(lengths), handoff, replicas)
    return shape, Filling(workers, positions, draft.num_tokens)


def _positions(draft: Draft) -> list[int]:
    """Every bound that occurs, in rising order; the first is 0."""
    ends = [segment.end for segment in draft.segments]
    if not draft.handoff and not draft.replicas:
        return [0, *ends]
    copies = [copy.end for copy in (draft.handoff, *draft.replicas) if copy]
    return sorted({0, *ends, *copies})


def draft_of(shape: Shape) -> Draft:
    """The draft whose tokens are the shape's positions: its plan is the shape's template."""
    return Draft(
        shape.num_tokens,
        str(shape.segments[-1][0]),
        tuple(Segment(str(worker), begin, end) for worker, begin, end in shape.segments),
        {str(worker): end for worker, end in enumerate(shape.cached)},
        Handoff(str(shape.handoff[0]), shape.handoff[1]) if shape.handoff else None,
        tuple(Replica(str(worker), end) for worker, end in shape.replicas),
    )


def make_template(shape: Shape) -> Template:
    """Derives the steps of a shape, checked after every pass; PlanError would be our own bug."""
    draft = draft_of(shape)
    for _name, after in run_passes(draft):
        draft = after
    plan = Plan("", "", draft.num_tokens, draft.steps)
    return Template(plan, tuple(_filler(step) for step in plan.steps))


def run_passes(draft: Draft) -> Iterator[tuple[str, Draft]]:
    """The draft after every pass, with the pass's name; each is checked before it is given."""
    check_segments(draft)
    for run in PASSES:
        draft = run(draft)
        check_draft(draft, run)
        yield run.__name__, draft


def check_draft(draft: Draft, after: Pass) -> None:
    try:
        check_segments(draft)
        if draft.steps:
            verify_plan(Plan("", "", draft.num_tokens, draft.steps), draft.cached)
    except PlanError as error:
        raise PlanError(f"after {after.__name__}: {error}") from None


def check_segments(draft: Draft) -> None:
    """Segments join, cover the prompt and end on the generating worker. Raises PlanError."""
    begin = 0
    for segment in draft.segments:
        if segment.begin != begin or segment.end < begin:
            raise PlanError(f"a segment begins at {segment.begin} where {begin} was expected")
        begin = segment.end
    if begin != draft.num_tokens:
        raise PlanError(f"the segments end at {begin}, the prompt at {draft.num_tokens}")
    if draft.segments[-1].worker != draft.generator:
        raise PlanError("the last token is not computed where the answer is generated")


# --- filling a template in ---------------------------------------------------------------------


def _filler(step: Step) -> StepFiller:
    """A function that makes `step` with a request's workers and positions."""
    if isinstance(step, PrepRecv):
        return _prep_filler(step)
    if isinstance(step, RemoteSend):
        return _send_filler(step)
    if isinstance(step, StartGenerate):
        return _generate_filler(step)
    return _ticket_filler(step)


def _prep_filler(step: PrepRecv) -> StepFiller:
    name, ticket, after = step.id, step.ticket, step.after
    worker, begin, end = int(step.worker), step.begin, step.end
    return lambda filling: PrepRecv(
        name,
        filling.workers[worker],
        filling.positions[begin],
        filling.positions[end],
        ticket,
        after,
    )


def _send_filler(step: RemoteSend) -> StepFiller:
    name, to, uses, after = step.id, step.to, step.uses, step.after
    worker, begin, end = int(step.worker), step.begin, step.end
    return lambda filling: RemoteSend(
        name,
        filling.workers[worker],
        filling.positions[begin],
        filling.positions[end],
        to,
        uses,
        after,
    )


def _generate_filler(step: StartGenerate) -> StepFiller:
    name, uses, after = step.id, step.uses, step.after
    worker, begin, max_tokens = int(step.worker), step.begin, step.max_tokens

    def fill(filling: Filling) -> Step:
        count = None
        if max_tokens is not None:  # K, from the last position n + K - 1
            count = filling.positions[-1] - filling.num_tokens + 1
        return StartGenerate(
            name, filling.workers[worker], filling.positions[begin], uses, count, after
        )

    return fill


def _ticket_filler(step: Commit | Release) -> StepFiller:
    make, worker = type(step), int(step.worker)
    name, ticket, after = step.id, step.ticket, step.after
    return lambda filling: make(name, filling.workers[worker], ticket, after)


# --- all shapes of a route ---------------------------------------------------------------------


def all_shapes(num_segments: int) -> Iterator[Shape]:
    """Every shape that a route of so many segments can take (no handoff, no replicas): all ways in
    which neighbouring workers differ, with every worker's cache ending at every bound."""
    for length in range(1, num_segments + 1):
        for workers in _partitions(length):
            segments = tuple((w, i, i + 1) for i, w in enumerate(workers))
            for cached in _lengths(max(workers) + 1, length):
                yield Shape(segments, length, cached, None, ())


def _partitions(length: int) -> Iterator[tuple[int, ...]]:
    """Numberings of `length` segments by worker where no neighbours are on the same one."""
    if length == 0:
        yield ()
        return
    for head in _partitions(length - 1):
        for worker in range(max(head, default=-1) + 2):
            if not head or head[-1] != worker:
                yield (*head, worker)


def _lengths(num_workers: int, longest: int) -> Iterator[tuple[int, ...]]:
    if num_workers == 0:
        yield ()
        return
    for head in _lengths(num_workers - 1, longest):
        for length in range(longest + 1):
            yield (*head, length)


def segments_between(workers: Sequence[WorkerName], bounds: Sequence[int]) -> tuple[Segment, ...]:
    """Segments that join: the i-th worker's ends at the i-th bound."""
    begins = [0, *bounds[:-1]]
    return tuple([Segment(w, b, e) for w, b, e in zip(workers, begins, bounds, strict=True)])
