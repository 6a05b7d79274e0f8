"""A route as closures, and what they make of one request: the draft that lowering turns into a plan.

Knows expressions only as closures; how a draft becomes steps is passes.py's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.compiler.evaluate import Bound, compile_bound, compile_expression
from mserve.compiler.frame import Evaluator, Frame
from mserve.compiler.passes import Draft, Handoff, Replica, Segment
from mserve.compiler.plan import WorkerName
from mserve.compiler.scope import CompileError, Scope
from mserve.dsl.syntax import Call, Compute, Generate, PromptRange, Range, Replicate, Reuse, Route


@dataclass(frozen=True, slots=True)
class Piece:
    """`worker` computes, or with `reuse` has, the prompt from where the piece above ends to `end`."""

    worker: Evaluator
    end: Bound
    reuse: bool


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """Its methods raise Missing where a choice finds no worker."""

    name: str
    guard: Evaluator | None
    pieces: tuple[Piece, ...]
    generators: tuple[Evaluator, ...]  # one, or two for a handoff
    handoff_after: Evaluator | None
    replicas: tuple[Piece, ...]
    turns: frozenset[int]  # places of the `next` in its own steps

    def holds(self, frame: Frame) -> bool:
        return self.guard is None or bool(self.guard(frame))

    def draft(self, frame: Frame) -> Draft:
        """Where this request's ranges are computed: segments that join and cover the prompt."""
        segments, begin = [], 0
        for piece in self.pieces:
            worker, end = piece.worker(frame), piece.end(frame)
            if piece.reuse:
                end = min(end, frame.view.cached(worker))
            end = max(begin, end)
            segments.append(Segment(worker, begin, end))
            begin = end
        generator, handoff = self._generation(frame)
        num_tokens = frame.view.num_tokens
        segments.append(Segment(generator, begin, num_tokens))
        replicas = tuple([Replica(p.worker(frame), p.end(frame)) for p in self.replicas])
        cached = _cached(frame, [*segments, *replicas])
        return Draft(num_tokens, generator, tuple(segments), cached, handoff, replicas)

    def _generation(self, frame: Frame) -> tuple[WorkerName, Handoff | None]:
        """Where the answer begins and, unless it would end before, where it goes on."""
        first = self.generators[0](frame)
        if self.handoff_after is None:
            return first, None
        second = self.generators[1](frame)
        count = self.handoff_after(frame) - frame.view.num_answered  # of this attempt
        if first == second or count >= frame.view.max_tokens:
            return first, None
        if count < 1:
            return second, None
        return first, Handoff(second, frame.view.num_tokens + int(count) - 1)


def _cached(frame: Frame, parts: list[Segment | Replica]) -> dict[WorkerName, int]:
    """Cached prefixes of the workers that could need something from another."""
    workers = {part.worker for part in parts}
    if len(workers) == 1:
        return {}
    cached = frame.view.cached
    return {worker: cached(worker) for worker in workers}


def compile_route(route: Route, scope: Scope) -> CompiledRoute:
    """Raises CompileError for step sequences that no plan exists for."""
    generates = [step for step in route.steps if isinstance(step, Generate)]
    _check_generates(route.name, generates)
    count = generates[0].count
    return CompiledRoute(
        route.name,
        None if route.guard is None else compile_expression(route.guard, scope),
        tuple(_piece(s, scope) for s in route.steps if isinstance(s, (Compute, Reuse))),
        tuple(compile_expression(step.worker, scope) for step in generates),
        None if count is None else compile_expression(count, scope),
        tuple(_piece(s, scope) for s in route.steps if isinstance(s, Replicate)),
        frozenset(_places_of_next(route)),
    )


def _places_of_next(route: Route) -> Iterator[int]:
    for step in route.steps:
        if isinstance(step.worker, Call) and step.worker.name == "next":
            yield step.worker.span.start


def _check_generates(route: str, generates: list[Generate]) -> None:
    if not 1 <= len(generates) <= 2:
        raise CompileError(
            f"route '{route}' generates {len(generates)} times; once or twice is possible"
        )
    *firsts, last = generates
    if last.count is not None or any(step.count is None for step in firsts):
        raise CompileError(
            f"route '{route}': `generate K` hands over to one `generate` without a count after it"
        )


def _piece(step: Compute | Reuse | Replicate, scope: Scope) -> Piece:
    worker = compile_expression(step.worker, scope)
    return Piece(worker, _end(step.range, scope), isinstance(step, Reuse))


def _end(range_: Range, scope: Scope) -> Bound:
    """The checker has seen to it that a range begins where the one above ends."""
    return compile_bound(range_.end if isinstance(range_, PromptRange) else None, scope)
