"""Whether it matters to a worker in which order messages about different tickets reach it.

In a run without faults it does not: checked here, state by state, for every pair of messages. Then
one order of deliveries stands for all (Newman, On Theories with a Combinatorial Definition of
"Equivalence", 1942; Godefroid, Partial-Order Methods, 1996). Knows one worker only.

Here every ticket has a connection of its own. With one connection for all tickets of two workers
fewer orders are possible, and a run that has come to its end in that network has so in this one.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

from mserve.compiler.protocol import SendState, TicketState
from mserve.compiler.verifier.alone import outcomes
from mserve.compiler.verifier.parts import SELF
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Part
from mserve.compiler.verifier.signals import Kind, Signal
from mserve.compiler.verifier.views import HALVES, NOBODY, TicketView, WorkerState

_Said = tuple[tuple[tuple[int, int], tuple[Signal, ...]], ...]  # by receiver and subject, in order


@lru_cache(maxsize=1024)
def is_confluent(part: Part, rules: Rules) -> bool:
    """Without faults, any two messages that are not of one ticket lead to the same in either order:
    to the same states, with the same said about every ticket."""
    queue = [WorkerState()]
    known = set(queue)
    for state in queue:  # grows
        arrivals = list(_arrivals(part, state))
        for one, other in combinations(arrivals, 2):
            if _are_apart(one, other) and not _commute(part, rules, state, one, other):
                return False
        for signal in arrivals:
            for outcome in _taken(part, rules, state, signal):
                if outcome is None:
                    return False
                if outcome[0] not in known:
                    known.add(outcome[0])
                    queue.append(outcome[0])
    return True


def _are_apart(one: Signal, other: Signal) -> bool:
    return one.subject != other.subject or Kind.PLAN in (one.kind, other.kind)


def _commute(part: Part, rules: Rules, state: WorkerState, one: Signal, other: Signal) -> bool:
    return _both(part, rules, state, one, other) == _both(part, rules, state, other, one)


def _both(
    part: Part, rules: Rules, state: WorkerState, first: Signal, second: Signal
) -> set[tuple[WorkerState, _Said]]:
    found = set()
    for between in _taken(part, rules, state, first):
        for after in _taken(part, rules, between[0], second) if between else ():
            if between is not None and after is not None:
                found.add((after[0], _by_subject((*between[1], *after[1]))))
    return found


def _taken(
    part: Part, rules: Rules, state: WorkerState, signal: Signal
) -> Iterator[tuple[WorkerState, tuple[tuple[int, Signal], ...]] | None]:
    """None where a property does not hold."""
    for outcome in outcomes(part, rules, state, lambda w: w.take(signal), is_prompt=True):
        yield None if outcome.violation else (outcome.state, outcome.letters)


def _by_subject(letters: tuple[tuple[int, Signal], ...]) -> _Said:
    said: dict[tuple[int, int], tuple[Signal, ...]] = {}
    for target, signal in letters:
        key = target, signal.subject
        said[key] = (*said.get(key, ()), signal)
    return tuple(sorted(said.items()))


def _arrivals(part: Part, state: WorkerState) -> Iterator[Signal]:
    """What may come next in a run without faults; more than that does no harm."""
    if state.newest + 1 < len(part.stages):
        task = part.stages[state.newest + 1][0]
        more = (task.first_token, task.num_tokens)
        yield Signal(Kind.PLAN, state.newest + 1, 1, more)
    for number, transfer in enumerate(part.transfers):
        is_ours = transfer.receiver == SELF
        yield from _from_sender(number, state) if is_ours else _from_receiver(number, state)


def _from_sender(number: int, state: WorkerState) -> Iterator[Signal]:
    ticket = state.ticket(number) or TicketView(number, TicketState.REGISTERED, NOBODY, 0, False)
    is_over = bool(state.ended >> 2 * number & 1)
    if ticket.peer == NOBODY and number not in state.parked and not is_over:
        yield Signal(Kind.OPEN, number, 1)
    elif ticket.state in (TicketState.RESERVED, TicketState.RECEIVING):
        is_whole = ticket.halves == HALVES
        yield Signal(Kind.FIN, number) if is_whole else Signal(Kind.DATA, number, ticket.halves)


def _from_receiver(number: int, state: WorkerState) -> Iterator[Signal]:
    send = state.send(number)
    if send is not None and send.state is SendState.OPENING:
        yield from (Signal(Kind.GRANT, number, has_all) for has_all in (0, 1))
    elif send is not None and send.state is SendState.FLUSHED:
        yield Signal(Kind.ACK, number)
