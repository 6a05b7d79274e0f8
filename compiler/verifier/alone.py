"""One worker among others that may do anything: every state that it can get into, at any fault.

An assume-guarantee argument (Jones, Tentative Steps Toward a Development Method for Interfering
Programs, 1983): whatever router, peers and network do, a worker gets *some* messages in *some*
order, and sees leases and patience run out at *some* time. Here it gets any at any time. What holds
then holds in every plan, with any number of workers and faults. Knows no other actor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mserve.compiler.protocol import (
    Check,
    Message,
    SendEvent,
    SendState,
    TicketEvent,
    TicketState,
)
from mserve.compiler.verifier.parts import SELF
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.rules import RULES, Rules
from mserve.compiler.verifier.scene import Part
from mserve.compiler.verifier.signals import ROUTER, Kind, Signal
from mserve.compiler.verifier.views import HALVES, Choices, Outcome, SessionView, WorkerState
from mserve.compiler.verifier.worker import Worker

_OF_TICKETS = {
    Kind.DATA: TicketEvent.DATA,
    Kind.FIN: TicketEvent.FIN,
    Kind.WITHDRAW: TicketEvent.SENDER_LOST,
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that may happen to the worker: `signal` comes, or `what` befalls a ticket of it."""

    what: str
    signal: Signal


@dataclass(frozen=True, slots=True)
class Solitude:
    """`broken` is None if every property of a worker holds in all `num_states`; else the `events`
    lead to it. Where `is_complete` is False nothing is proved."""

    num_states: int
    is_complete: bool = True
    broken: Property | None = None
    sentence: str = ""
    events: tuple[Event, ...] = ()


def explore_alone(part: Part, rules: Rules = RULES, max_states: int = 100_000) -> Solitude:
    """All that can happen to the worker whose part this is, in its first life and in a later one."""
    return _Alone(part, rules).run(max_states)


def outcomes(
    part: Part,
    rules: Rules,
    state: WorkerState,
    act: Callable[[Worker], None],
    *,
    is_prompt: bool,
) -> Iterator[Outcome]:
    """What an event makes of a worker, once for every way the outside may decide."""
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        choices = Choices(scripts.pop())
        worker = Worker(part, rules, SELF, state, choices, is_prompt=is_prompt)
        try:
            act(worker)
            yield worker.result()
        except Violation as violation:
            yield Outcome(state, (), violation)
        scripts += choices.open


def act_of(event: Event) -> Callable[[Worker], None]:
    number = event.signal.subject
    acts: dict[str, Callable[[Worker], None]] = {
        "lease": lambda worker: worker.expire_ticket(number),
        "silence": lambda worker: worker.expire_send(number),
        "unclaimed": lambda worker: worker.expire_parked(number),
        "push": lambda worker: worker.push(number),
    }
    return acts.get(event.what) or (lambda worker: worker.take(event.signal))


class _Alone:
    def __init__(self, part: Part, rules: Rules) -> None:
        self._rules = rules
        self._outcomes = partial(outcomes, part, rules, is_prompt=False)
        self._messages = [Event("take", signal) for signal in _messages(part, rules)]
        self._hears_the_dead = any(state is TicketState.RELEASED for state, _ in rules.ticket)
        self._losses = _losses(part)
        self._calls = [Event("take", signal) for signal in _calls(part)]
        self._came_by: dict[WorkerState, tuple[WorkerState, Event] | None] = {}

    def run(self, max_states: int) -> Solitude:
        queue = [WorkerState(), WorkerState(incarnation=2)]
        self._came_by = dict.fromkeys(queue)
        for state in queue:  # grows
            for event in self._events(state):
                for outcome in self._outcomes(state, act_of(event)):
                    found = outcome.violation or _wrong(state, event, outcome)
                    if found is not None:
                        return self._story(state, event, found)
                    if outcome.state not in self._came_by:
                        self._came_by[outcome.state] = (state, event)
                        queue.append(outcome.state)
            if len(queue) > max_states:
                return Solitude(len(queue), is_complete=False)
        return Solitude(len(queue))

    def _events(self, state: WorkerState) -> Iterator[Event]:
        """A call comes once, or twice while it lasts; later only after a later one. One of another
        number changes nothing of a session that goes on, so it comes when there is none."""
        going_on = {session.number for session in state.sessions}
        for event in self._calls:
            number = event.signal.subject
            is_close = event.signal.kind is Kind.CLOSE
            if number in going_on or not (going_on or is_close or number == state.newest):
                yield event
        for event in self._messages:
            if self._may_matter(state, event.signal):
                yield event
        if state.sessions:
            yield from (Event("take", signal) for signal in self._losses)
        for session in state.sessions:
            yield from self._of_time(session)
        yield from (Event("unclaimed", Signal(Kind.OPEN, number)) for number in state.parked)

    def _may_matter(self, state: WorkerState, signal: Signal) -> bool:
        """Its ticket or send is here, and the table has a transition for it."""
        if signal.kind is Kind.OPEN or self._hears_the_dead:
            return True
        if signal.kind in _OF_TICKETS:
            ticket = state.ticket(signal.subject)
            if ticket is None:
                return signal.subject in state.parked
            return (ticket.state, _OF_TICKETS[signal.kind]) in self._rules.ticket
        send = state.send(signal.subject)
        return send is not None and (send.state, SendEvent(signal.kind)) in self._rules.send

    def _of_time(self, session: SessionView) -> Iterator[Event]:
        for ticket in session.tickets:
            if (ticket.state, TicketEvent.EXPIRE) in self._rules.ticket:
                yield Event("lease", Signal(Kind.OPEN, ticket.number))
        for send in session.sends:
            if (send.state, SendEvent.EXPIRE) in self._rules.send:
                yield Event("silence", Signal(Kind.OPEN, send.number))
            if send.state in (SendState.GRANTED, SendState.SENDING):
                yield Event("push", Signal(Kind.OPEN, send.number))

    def _story(self, state: WorkerState, event: Event, found: Violation) -> Solitude:
        events = [event]
        step = self._came_by[state]
        while step is not None:
            state, event = step
            events.append(event)
            step = self._came_by[state]
        num_states = len(self._came_by)
        return Solitude(num_states, True, found.broken, found.sentence, tuple(events[::-1]))


def _wrong(before: WorkerState, event: Event, outcome: Outcome) -> Violation | None:
    """What a worker owes the others whenever a plan ends at it."""
    after = outcome.state
    if after.leaving:
        return Violation(Property.PAGES, "its plan is over, and pages of it are still held")
    ended = {s.number for s in before.sessions} - {s.number for s in after.sessions}
    for number in ended:
        is_closed = event.signal.kind is Kind.CLOSE and event.signal.subject == number
        said = {signal.kind for to, signal in outcome.letters if to == ROUTER}
        if not is_closed and not said & {Kind.DONE, Kind.FAIL}:
            return Violation(Property.END, "its plan is over, and the router is not told")
    return None


def _calls(part: Part) -> Iterator[Signal]:
    """The calls of the plan and the whole request, as a later attempt; all may be closed."""
    tasks = [stage[0] for stage in part.stages]
    for number, task in enumerate(tasks):
        yield Signal(Kind.PLAN, number, 1, (task.first_token, task.num_tokens))
        yield Signal(Kind.CLOSE, number)
    yield Signal(Kind.PLAN, len(tasks), 1, (0, 1))
    yield Signal(Kind.CLOSE, len(tasks))


def _messages(part: Part, rules: Rules) -> Iterator[Signal]:
    """All that peers may say; and others, where the rules do not ask who it was. Who announces a
    ticket first is its peer, so nobody else does."""
    for number, transfer in enumerate(part.transfers):
        receives = transfer.receiver == SELF
        for signal in _to_receiver(number) if receives else _to_sender(number):
            yield signal
            checks = rules.checks[Message(signal.kind)]
            if signal.kind is not Kind.OPEN and Check.PEER not in checks:
                yield signal._replace(is_foreign=True)


def _losses(part: Part) -> list[Signal]:
    peers = {w for t in part.transfers for w in (t.sender, t.receiver)} - {SELF}
    return [Signal(Kind.LOST, peer) for peer in sorted(peers)]


def _to_receiver(number: int) -> Iterator[Signal]:
    yield Signal(Kind.OPEN, number, 1)
    yield from (Signal(Kind.DATA, number, half) for half in range(HALVES))
    yield Signal(Kind.FIN, number)
    yield Signal(Kind.WITHDRAW, number)


def _to_sender(number: int) -> Iterator[Signal]:
    yield from (Signal(Kind.GRANT, number, has_all) for has_all in (0, 1))
    yield Signal(Kind.ACK, number)
    yield Signal(Kind.REFUSE, number)
