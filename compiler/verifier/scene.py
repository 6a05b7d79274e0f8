"""What there is to explore about one plan: its stages, who does what in each, how KV is cut up.

Positions become *pieces*, two to a position of the shape, so that every range has a middle where a
transfer can break off. Stages are those in which the router sends a plan's calls.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mserve.compiler.plan import (
    FIRST_TOKEN,
    Commit,
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
    StepName,
)

PIECES = 2  # of every position


@dataclass(frozen=True, slots=True)
class Transfer:
    """One ticket: `[begin, end)` in pieces from `sender` to `receiver`, in two messages."""

    name: str
    begin: int
    end: int
    sender: int
    receiver: int
    is_committed: bool

    def moved(self, places: Mapping[int, int]) -> "Transfer":
        return replace(self, begin=places[self.begin], end=places[self.end])


@dataclass(frozen=True, slots=True)
class Sending:
    """One `remote_send`: the tickets it serves, by number; none if it only computes."""

    tickets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """What one call asks of one worker. Ends are in pieces; `num_tokens` is 0 if nothing is generated."""

    worker: int
    receives: tuple[int, ...] = ()  # tickets by number, in the order of their ranges
    sends: tuple[Sending, ...] = ()
    compute_end: int = 0
    cached: int = 0
    first_token: int = 0  # which token of the answer the generation begins with
    num_tokens: int = 0

    def moved(self, places: Mapping[int, int]) -> "Task":
        cached, end = places[self.cached], places[self.compute_end]
        return replace(self, cached=cached, compute_end=end)


@dataclass(frozen=True, slots=True)
class Part:
    """What workers know of a plan: tickets by number, and in every stage who does what."""

    transfers: tuple[Transfer, ...]
    stages: tuple[tuple[Task, ...], ...]


@dataclass(frozen=True, slots=True)
class Scene(Part):
    """A plan to explore. `stages` are in order; the last `num_background` of them only make copies.

    An answer has `num_tokens` tokens, unless it ends early.
    """

    workers: tuple[str, ...]
    num_background: int
    num_tokens: int

    @property
    def num_foreground(self) -> int:
        return len(self.stages) - self.num_background

    def generator(self, stage: int) -> int:
        """The worker that generates in a stage of the answer."""
        return next(task.worker for task in self.stages[stage] if task.num_tokens)


def places_of(transfers: Iterable[Transfer], tasks: Iterable[Task]) -> dict[int, int]:
    """New numbers for the positions that matter, `PIECES` apart: only their order does."""
    bounds = {0}
    for transfer in transfers:
        bounds |= {transfer.begin, transfer.end}
    for task in tasks:
        bounds |= {task.compute_end, task.cached}
    return {bound: at * PIECES for at, bound in enumerate(sorted(bounds))}


def scene_of(plan: Plan, cached: dict[str, int], num_tokens: int = 2) -> Scene:
    """The scene of a shape's plan; `cached` are positions, `num_tokens` those after a handoff's."""
    return _Builder(plan, cached, num_tokens).scene()


def stages_of(plan: Plan) -> tuple[tuple[tuple[Step, ...], ...], tuple[Step, ...]]:
    """Steps that are sent together, in order, each stage with a generation; and the copies that
    follow the answer."""
    numbers, background = _stage_numbers(plan), _background(plan)
    last = max(numbers[step.id] for step in plan.steps if isinstance(step, StartGenerate))
    stages = tuple(
        tuple(s for s in plan.steps if numbers[s.id] == number and s.id not in background)
        for number in range(last + 1)
    )
    return stages, tuple(step for step in plan.steps if step.id in background)


def _stage_numbers(plan: Plan) -> dict[StepName, int]:
    """How many generations a step comes after; a ticket is registered when it is sent."""
    generates = {step.id for step in plan.steps if isinstance(step, StartGenerate)}
    numbers: dict[StepName, int] = {}
    sent: dict[str, int] = {}
    for step in plan.steps:
        before = [name.removesuffix(FIRST_TOKEN) for name in step.after]
        number = max((numbers[name] + (name in generates) for name in before), default=0)
        numbers[step.id] = number
        if isinstance(step, RemoteSend):
            sent |= dict.fromkeys(step.to, number)
    for step in plan.steps:
        if isinstance(step, PrepRecv):
            numbers[step.id] = sent[step.ticket]
    return numbers


def _background(plan: Plan) -> set[StepName]:
    """Steps that serve nothing but tickets which are committed in the end."""
    copies = {step.ticket for step in plan.steps if isinstance(step, Commit)}
    for step in plan.steps:
        if isinstance(step, RemoteSend) and not copies.issuperset(step.to):
            copies.difference_update(step.to)
    return {step.id for step in plan.steps if _served(step) and copies.issuperset(_served(step))}


def _served(step: Step) -> tuple[str, ...]:
    if isinstance(step, RemoteSend):
        return step.to
    return () if isinstance(step, StartGenerate) else (step.ticket,)


class _Builder:
    def __init__(self, plan: Plan, cached: dict[str, int], num_tokens: int) -> None:
        self._plan = plan
        self._cached = cached
        self._names = list(dict.fromkeys(step.worker for step in plan.steps))
        preps = [step for step in plan.steps if isinstance(step, PrepRecv)]
        self._tickets = {step.ticket: number for number, step in enumerate(preps)}
        handoffs = [s for s in plan.steps if isinstance(s, StartGenerate) and s.max_tokens]
        self._before_handoff = sum(step.max_tokens or 0 for step in handoffs)
        self._num_tokens = num_tokens + self._before_handoff - bool(handoffs)
        self._preps = preps

    def scene(self) -> Scene:
        foreground, background = stages_of(self._plan)
        stages = [*foreground, background] if background else [*foreground]
        transfers = tuple(self._transfer(prep) for prep in self._preps)
        tasks = tuple(tuple(self._tasks(steps)) for steps in stages)
        places = places_of(transfers, [task for stage in tasks for task in stage])
        return Scene(
            tuple(transfer.moved(places) for transfer in transfers),
            tuple(tuple(task.moved(places) for task in stage) for stage in tasks),
            worker_names(self._plan, self._names),
            len(stages) - len(foreground),
            self._num_tokens,
        )

    def _transfer(self, prep: PrepRecv) -> Transfer:
        sends = [s for s in self._plan.steps if isinstance(s, RemoteSend) and prep.ticket in s.to]
        commits = [s for s in self._plan.steps if isinstance(s, Commit) and s.ticket == prep.ticket]
        return Transfer(
            prep.ticket,
            prep.begin * PIECES,
            prep.end * PIECES,
            self._names.index(sends[0].worker),
            self._names.index(prep.worker),
            bool(commits),
        )

    def _tasks(self, steps: tuple[Step, ...]) -> Iterator[Task]:
        """One task per worker of a stage, the generating worker's last."""
        by_worker: dict[str, list[Step]] = {}
        for step in steps:
            by_worker.setdefault(step.worker, []).append(step)
        tasks = [self._task(name, own) for name, own in by_worker.items()]
        yield from sorted(tasks, key=lambda task: task.num_tokens > 0)

    def _task(self, name: str, steps: list[Step]) -> Task:
        preps = sorted((s for s in steps if isinstance(s, PrepRecv)), key=lambda s: s.begin)
        sends = [step for step in steps if isinstance(step, RemoteSend)]
        generate = next((step for step in steps if isinstance(step, StartGenerate)), None)
        ends = [prep.end for prep in preps] + [send.end for send in sends]
        first, num_tokens = 0, 0
        if generate is not None:
            ends.append(max(self._plan.num_tokens, generate.begin))
            moved = generate.max_tokens is None and self._before_handoff
            first = self._before_handoff if moved else 0
            num_tokens = generate.max_tokens or self._num_tokens - first
        return Task(
            self._names.index(name),
            tuple(self._tickets[step.ticket] for step in preps),
            tuple(Sending(tuple(self._tickets[t] for t in step.to)) for step in sends),
            max(ends, default=0) * PIECES,
            self._cached.get(name, 0) * PIECES,
            first,
            num_tokens,
        )


def worker_names(plan: Plan, names: list[str]) -> tuple[str, ...]:
    """What stories call the workers: by what they do, as the pools of most strategies are called."""
    generating = {step.worker for step in plan.steps if isinstance(step, StartGenerate)}
    copying = {step.worker for step in plan.steps if isinstance(step, Commit)}
    counts: dict[str, int] = {}
    made = []
    for name in names:
        role = "decode" if name in generating else "replica" if name in copying else "prefill"
        made.append(f"{role}-{counts.setdefault(role, 0)}")
        counts[role] += 1
    return tuple(made)
