"""Which steps of a route, as written, each step of its plan comes from.

Works on a route's syntax, the draft made of it (a segment for each `compute` and `reuse`, in order,
and one for what is left) and the plan derived from that. Knows neither source text nor looks.
"""

from mserve.compiler.passes import Draft, Segment
from mserve.compiler.plan import (
    FIRST_TOKEN,
    Commit,
    Plan,
    PrepRecv,
    Release,
    RemoteSend,
    StartGenerate,
    StepName,
    TicketName,
    WorkerName,
)
from mserve.dsl.syntax import Compute, Generate, Replicate, Reuse, Route, Step

Origins = dict[StepName, tuple[Step, ...]]


def find_origins(route: Route, draft: Draft, plan: Plan) -> Origins:
    """For every step of `plan` what it comes from, in the order of the text; never nothing.

    `draft` is as the route gave it, before any pass.
    """
    return _Search(route, draft, plan).run()


class _Search:
    def __init__(self, route: Route, draft: Draft, plan: Plan) -> None:
        self._draft = draft
        self._plan = plan
        pieces = [step for step in route.steps if isinstance(step, (Compute, Reuse))]
        self._pieces: list[tuple[Segment, Step]] = list(
            zip(draft.segments[:-1], pieces, strict=True)
        )
        self._generates = [step for step in route.steps if isinstance(step, Generate)]
        self._replicates = [step for step in route.steps if isinstance(step, Replicate)]
        self._receivers = {s.ticket: s.worker for s in plan.steps if isinstance(s, PrepRecv)}
        self._sends = [step for step in plan.steps if isinstance(step, RemoteSend)]
        self._first = next(s.id for s in plan.steps if isinstance(s, StartGenerate))

    def run(self) -> Origins:
        found: Origins = {}
        for step in self._plan.steps:
            if isinstance(step, RemoteSend):
                steps = [origin for t in step.to for origin in self._copies(step, t)]
                steps = steps or self._computes(step.worker, step.begin, step.end)
            elif isinstance(step, StartGenerate):
                steps = self._generation(step)
            else:
                steps = self._moved(step)
            assert steps, f"step {step.id} comes from nowhere"
            found[step.id] = tuple(dict.fromkeys(sorted(steps, key=lambda each: each.span.start)))
        return found

    def _computes(self, worker: WorkerName, begin: int, end: int) -> list[Step]:
        """The `compute` and `reuse` steps of a worker that have a part in `[begin, end)`."""
        own = [(segment, step) for segment, step in self._pieces if segment.worker == worker]
        parts = [step for s, step in own if max(begin, s.begin) < min(end, s.end)]
        return parts or [step for _, step in own]

    def _generation(self, step: StartGenerate) -> list[Step]:
        """A handoff has a `generate` for each of its two; else there is one for all."""
        if self._draft.handoff is None:
            generates = self._generates
        else:
            generates = self._generates[:1] if step.id == self._first else self._generates[1:]
        own = [(s, piece) for s, piece in self._pieces if s.worker == step.worker]
        parts = [piece for s, piece in own if step.begin < s.end and s.begin < s.end]
        return [*parts, *generates]

    def _moved(self, step: PrepRecv | Commit | Release) -> list[Step]:
        send = next(send for send in self._sends if step.ticket in send.to)
        return self._copies(send, step.ticket) or self._computes(send.worker, send.begin, send.end)

    def _copies(self, send: RemoteSend, ticket: TicketName) -> list[Step]:
        """What asks for a copy after the first token; nothing for any other send."""
        if not any(name.endswith(FIRST_TOKEN) for name in send.after):
            return []
        copy = (self._receivers[ticket], send.end)
        if self._draft.handoff == copy:
            return [*self._generates[1:]]
        copies = zip(self._draft.replicas, self._replicates, strict=True)
        return [step for replica, step in copies if replica == copy]
