"""Every scene that a route can lead to: which of its workers coincide, what each has cached.

Knows a route by its counts only; how a shape becomes steps is lower.py's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from mserve.compiler.lower import Shape, all_shapes, draft_of, make_template, shape_of, simplify
from mserve.compiler.passes import Draft, Handoff, Replica
from mserve.compiler.verifier.scene import Scene, scene_of


@dataclass(frozen=True, slots=True)
class RouteForm:
    """What decides the shapes of a route: pieces above the generator's own, copies, a handoff."""

    num_pieces: int
    has_handoff: bool = False
    num_replicas: int = 0


@cache
def scenes_of(form: RouteForm) -> tuple[Scene, ...]:
    """The scenes of a route, without repetitions. Shapes with equal steps and equal caches of who
    receives are one scene."""
    scenes = {scene: None for shape in _shapes(form) for scene in _scene(shape)}
    return tuple(sorted(scenes, key=lambda scene: (len(scene.workers), len(scene.transfers))))


def _shapes(form: RouteForm) -> Iterator[Shape]:
    known = set()
    for shape in all_shapes(form.num_pieces + 1):
        for draft in _with_copies(simplify(draft_of(shape)), form):
            found, _ = shape_of(draft)
            if found not in known:
                known.add(found)
                yield found


def _with_copies(draft: Draft, form: RouteForm) -> Iterator[Draft]:
    workers = [str(number) for number in range(_num_workers(draft) + 1)]
    drafts = [draft]
    if form.has_handoff:  # two positions further: K = 3, the least with a middle
        drafts += [
            replace(draft, handoff=Handoff(worker, draft.num_tokens + 2))
            for worker in workers
            if worker != draft.generator
        ]
    for _ in range(form.num_replicas):
        drafts = [
            replace(each, replicas=(*each.replicas, Replica(str(worker), end)))
            for each in drafts
            for worker in range(_num_workers(each) + 1)
            for end in range(1, draft.num_tokens + 1)
        ]
    return iter(drafts)


def _num_workers(draft: Draft) -> int:
    copies = [draft.handoff.worker] if draft.handoff else []
    copies += [replica.worker for replica in draft.replicas]
    return len({segment.worker for segment in draft.segments} | set(copies))


def _scene(shape: Shape) -> Iterator[Scene]:
    plan = make_template(shape).plan
    receivers = {step.worker for step in plan.steps if step.op == "prep_recv"}
    cached = {w: end for w, end in draft_of(shape).cached.items() if w in receivers and end}
    yield scene_of(plan, cached)
