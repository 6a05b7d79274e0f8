"""What every plan must satisfy, checked without running it: raises PlanError at the first violation.

Steps are taken in the order in which they stand, as if each ran to its end; what each worker then
holds is a set of token ranges. Crashes, cancels and interleavings are the state exploration's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mserve.compiler.intervals import Intervals
from mserve.compiler.plan import (
    FIRST_TOKEN,
    Commit,
    Plan,
    PrepRecv,
    Release,
    RemoteSend,
    StartGenerate,
    Step,
    StepName,
    TicketName,
    WorkerName,
)


class PlanError(Exception):
    """A plan that must not run; the message is a sentence that says which step and why."""


def verify_plan(plan: Plan, cached: Mapping[WorkerName, int]) -> None:
    """Checks `plan` for a prompt of which each worker has a prefix of `cached[worker]` tokens.

    Raises PlanError with a sentence for the first violated invariant.
    """
    _require(plan.num_tokens >= 1, "a prompt has at least one token")
    _check_generates(plan)
    state = _State(plan, cached)
    for step in plan.steps:
        state.take(step)
    state.finish()


@dataclass(slots=True)
class _Ticket:
    prep: PrepRecv
    sent: Intervals = field(default_factory=Intervals)
    senders: list[StepName] = field(default_factory=list)
    ended_by: StepName | None = None


class _State:
    """What is known after the steps taken so far."""

    def __init__(self, plan: Plan, cached: Mapping[WorkerName, int]) -> None:
        self._plan = plan
        self._cached = cached
        self._end = _last_position(plan)
        self._tickets: dict[TicketName, _Ticket] = {}
        self._before: dict[StepName, set[StepName]] = {}  # all steps that are done by then
        self._generating: dict[StepName, WorkerName] = {}
        self._has: dict[WorkerName, Intervals] = {}
        self._made: dict[WorkerName, list[tuple[StepName, int, int]]] = {}
        self._computed = Intervals()

    def take(self, step: Step) -> None:
        _require(step.id not in self._before, f"two steps are called '{step.id}'")
        self._before[step.id] = self._dependencies(step)
        if isinstance(step, PrepRecv):
            self._prep(step)
        elif isinstance(step, RemoteSend):
            self._send(step)
        elif isinstance(step, StartGenerate):
            self._generate(step)
        else:
            self._end_ticket(step, step.ticket)

    def finish(self) -> None:
        for name, ticket in self._tickets.items():
            _require(
                ticket.ended_by is not None,
                f"ticket '{name}' is never used, committed or released",
            )

    # --- order ---------------------------------------------------------------------------------

    def _dependencies(self, step: Step) -> set[StepName]:
        names = set(step.after)
        for ticket in _read_tickets(step):
            known = self._ticket(step, ticket)
            names.update(known.senders, [known.prep.id])
        if isinstance(step, RemoteSend):
            names.update(self._ticket(step, ticket).prep.id for ticket in step.to)
        return self._closure(step, names)

    def _closure(self, step: Step, names: set[StepName]) -> set[StepName]:
        before: set[StepName] = set()
        for name in names:
            base = name.removesuffix(FIRST_TOKEN)
            known = base in self._before if base == name else base in self._generating
            _require(known, f"step '{step.id}' comes after '{name}', which does not come before it")
            before |= {base} | self._before[base]
        return before

    def _ticket(self, step: Step, name: TicketName) -> _Ticket:
        ticket = self._tickets.get(name)
        if ticket is None:
            raise PlanError(f"step '{step.id}' names ticket '{name}' before any prep_recv of it")
        return ticket

    # --- steps ---------------------------------------------------------------------------------

    def _prep(self, step: PrepRecv) -> None:
        _require(step.ticket not in self._tickets, f"ticket '{step.ticket}' has two prep_recv")
        self._check_range(step, step.begin, step.end)
        self._tickets[step.ticket] = _Ticket(step)

    def _send(self, step: RemoteSend) -> None:
        self._check_range(step, step.begin, step.end)
        self._receive(step, step.uses)
        if self._waits_for_first_token(step):
            self._check_held(step, step.end)
        else:
            self._compute(step, step.begin, step.end)
        for name in step.to:
            self._deliver(step, name)

    def _deliver(self, step: RemoteSend, name: TicketName) -> None:
        ticket = self._ticket(step, name)
        prep = ticket.prep
        _require(prep.worker != step.worker, f"step '{step.id}' sends to its own worker")
        _require(
            prep.begin <= step.begin and step.end <= prep.end,
            f"step '{step.id}' sends [{step.begin}, {step.end}) but ticket '{name}' "
            f"takes [{prep.begin}, {prep.end})",
        )
        _require(ticket.ended_by is None, f"step '{step.id}' sends to '{name}' after its end")
        _require(
            not ticket.sent.overlaps(step.begin, step.end),
            f"step '{step.id}' sends tokens to ticket '{name}' a second time",
        )
        ticket.sent.add(step.begin, step.end)
        ticket.senders.append(step.id)

    def _generate(self, step: StartGenerate) -> None:
        num_tokens = self._plan.num_tokens
        self._receive(step, step.uses)
        if self._generating:  # a handoff: the last token of the first answer has no KV yet
            _require(
                step.begin == self._end,
                f"step '{step.id}' goes on at {step.begin}, but decode stopped at {self._end}",
            )
            self._check_held(step, step.begin)
        else:
            last = num_tokens - 1
            _require(0 <= step.begin <= last, f"step '{step.id}' must compute the last token")
            self._compute(step, step.begin, num_tokens)
            self._has[step.worker].add(0, self._end)  # by the end of this step
        self._generating[step.id] = step.worker

    def _end_ticket(self, step: Step, name: TicketName) -> None:
        """The step uses, commits or releases the ticket, which must be whole unless given back."""
        ticket = self._ticket(step, name)
        prep = ticket.prep
        _require(prep.worker == step.worker, f"step '{step.id}' ends another worker's ticket")
        _require(
            ticket.ended_by is None,
            f"ticket '{name}' is ended by '{step.id}' and before by '{ticket.ended_by}'",
        )
        ticket.ended_by = step.id
        if isinstance(step, Release):
            return
        begin = max(prep.begin, self._cached.get(prep.worker, 0))
        _require(
            ticket.sent.covers(begin, prep.end),
            f"step '{step.id}' needs [{begin}, {prep.end}) under '{name}', "
            f"of which only {ticket.sent} was sent",
        )
        if isinstance(step, Commit):
            done = set(ticket.senders) <= self._before[step.id]
            _require(done, f"step '{step.id}' commits '{name}' before its sends are done")

    # --- what workers hold ---------------------------------------------------------------------

    def _receive(self, step: RemoteSend | StartGenerate, tickets: tuple[TicketName, ...]) -> None:
        has = self._held(step.worker)
        for name in tickets:
            self._end_ticket(step, name)
            prep = self._tickets[name].prep
            has.add(prep.begin, prep.end)
            self._made.setdefault(step.worker, []).append((step.id, prep.begin, prep.end))

    def _held(self, worker: WorkerName) -> Intervals:
        if worker not in self._has:
            self._has[worker] = Intervals()
            self._has[worker].add(0, self._cached.get(worker, 0))
        return self._has[worker]

    def _compute(self, step: RemoteSend | StartGenerate, begin: int, end: int) -> None:
        has = self._held(step.worker)
        if has.covers(0, end):
            self._check_own_steps_before(step, end)
            return
        cached = self._cached.get(step.worker, 0)
        if cached < end:
            self._check_held(step, begin)
        for missing_begin, missing_end in has.missing(begin, end):
            _require(
                not self._computed.overlaps(missing_begin, missing_end),
                f"step '{step.id}' computes tokens of [{missing_begin}, {missing_end}) "
                "that another step computes",
            )
            self._computed.add(missing_begin, missing_end)
        has.add(begin, end)
        self._made.setdefault(step.worker, []).append((step.id, begin, end))

    def _check_held(self, step: RemoteSend | StartGenerate, end: int) -> None:
        _require(
            self._held(step.worker).covers(0, end),
            f"step '{step.id}' needs the KV of [0, {end}) on '{step.worker}', "
            f"which has only {self._held(step.worker)}",
        )
        self._check_own_steps_before(step, end)

    def _check_own_steps_before(self, step: RemoteSend | StartGenerate, end: int) -> None:
        """What the worker's earlier steps made must be there when this one starts."""
        for name, begin, _ in self._made.get(step.worker, ()):
            ordered = name == step.id or name in self._before[step.id]
            _require(
                ordered or begin >= end,
                f"step '{step.id}' builds on '{name}' of the same worker but may start before it",
            )

    def _waits_for_first_token(self, step: RemoteSend) -> bool:
        """Only copies of the generating worker's own KV may follow a first token."""
        names = [n.removesuffix(FIRST_TOKEN) for n in step.after if n.endswith(FIRST_TOKEN)]
        follows = any(name in self._before[step.id] for name in self._generating)
        own = any(self._generating.get(name) == step.worker for name in names)
        _require(
            own or not follows, f"step '{step.id}' follows a first token it does not belong to"
        )
        return own

    def _check_range(self, step: PrepRecv | RemoteSend, begin: int, end: int) -> None:
        _require(
            0 <= begin < end <= self._end,
            f"step '{step.id}' has the range [{begin}, {end}), not within [0, {self._end})",
        )


def _read_tickets(step: Step) -> tuple[TicketName, ...]:
    if isinstance(step, (RemoteSend, StartGenerate)):
        return step.uses
    return (step.ticket,) if isinstance(step, (Commit, Release)) else ()


def _check_generates(plan: Plan) -> None:
    """One generate, or two of which the first stops after its own number of tokens."""
    generates = [step for step in plan.steps if isinstance(step, StartGenerate)]
    _require(
        1 <= len(generates) <= 2, f"a plan generates once or twice, not {len(generates)} times"
    )
    *firsts, last = generates
    _require(last.max_tokens is None, f"step '{last.id}' must generate to the request's own limit")
    for first in firsts:
        count = first.max_tokens
        _require(
            count is not None and count >= 1,
            f"step '{first.id}' hands over but does not say after how many tokens",
        )
        _require(first.worker != last.worker, f"step '{last.id}' hands over to its own worker")
        _require(
            first.id in last.after,
            f"step '{last.id}' generates without waiting for the end of '{first.id}'",
        )


def _last_position(plan: Plan) -> int:
    """Tokens that have KV at the end of the plan, as far as it is fixed: n, or n + K - 1."""
    counts = [s.max_tokens for s in plan.steps if isinstance(s, StartGenerate)]
    return plan.num_tokens + sum(count - 1 for count in counts if count is not None)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise PlanError(sentence)
