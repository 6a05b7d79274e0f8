"""What a worker of an exploration looks like: states to compare and hash, and sessions to work on."""

from dataclasses import dataclass, field
from typing import NamedTuple

from mserve.compiler.protocol import SendState, TicketState
from mserve.compiler.verifier.properties import Violation
from mserve.compiler.verifier.scene import Task
from mserve.compiler.verifier.signals import Letter

NOBODY, SENDER, STRANGER = 0, 1, 2  # who holds the place of a ticket's peer
HALVES = 2
OVER = (SendState.ACKNOWLEDGED, SendState.ABORTED)


class TicketView(NamedTuple):
    """A living ticket. `halves` have been counted; `is_shown`: the sequence reads its range."""

    number: int
    state: TicketState
    peer: int
    halves: int
    is_shown: bool


class SendView(NamedTuple):
    number: int  # of the ticket
    state: SendState
    halves: int


class SessionView(NamedTuple):
    """A living session. `kv` has a bit for every piece that is really in the pages, `holds` one for
    every machine that holds them: 2t for the ticket t, 2t + 1 for its send."""

    number: int
    first_token: int
    num_tokens: int
    is_running: bool
    frontier: int
    kv: int
    has_generated: bool
    holds: int
    tickets: tuple[TicketView, ...]
    sends: tuple[SendView, ...]


class WorkerState(NamedTuple):
    """All of one incarnation of a worker. `ended` has a bit for every ticket that ended here, as
    `holds` has; `leaving` are holds that outlived their sessions."""

    incarnation: int = 1
    newest: int = -1
    sessions: tuple[SessionView, ...] = ()
    parked: tuple[int, ...] = ()
    ended: int = 0
    leaving: int = 0

    def ticket(self, number: int) -> TicketView | None:
        return next((t for s in self.sessions for t in s.tickets if t.number == number), None)

    def send(self, number: int) -> SendView | None:
        return next((o for s in self.sessions for o in s.sends if o.number == number), None)


class Outcome(NamedTuple):
    """What one event makes of a worker: a state and letters, or a violation."""

    state: WorkerState
    letters: tuple[Letter, ...] = ()
    violation: Violation | None = None


@dataclass(slots=True, eq=False)
class Ticket:
    session: "Session"
    number: int
    state: TicketState = TicketState.REGISTERED
    peer: int = NOBODY
    halves: int = 0
    is_shown: bool = False


@dataclass(slots=True, eq=False)
class Send:
    session: "Session"
    number: int
    state: SendState = SendState.NEW
    halves: int = 0


@dataclass(slots=True, eq=False)
class Session:
    number: int
    task: Task
    first_token: int
    num_tokens: int
    is_running: bool = False
    frontier: int = 0
    kv: int = 0
    has_generated: bool = False
    holds: int = 0
    tickets: list[Ticket] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)


class Choices:
    """Decisions of the outside, replayed: which way each was taken, and how many there were."""

    def __init__(self, script: tuple[int, ...]) -> None:
        self.script = script
        self.taken: list[int] = []
        self.open: list[tuple[int, ...]] = []  # scripts of the ways not taken

    def among(self, count: int) -> int:
        at = len(self.taken)
        if at < len(self.script):
            choice = self.script[at]
        else:
            choice = 0
            self.open += [(*self.taken, other) for other in range(1, count)]
        self.taken.append(choice)
        return choice


def freeze(session: Session) -> SessionView:
    return SessionView(
        session.number,
        session.first_token,
        session.num_tokens,
        session.is_running,
        session.frontier,
        session.kv,
        session.has_generated,
        session.holds,
        tuple(TicketView(t.number, t.state, t.peer, t.halves, t.is_shown) for t in session.tickets),
        tuple(SendView(o.number, o.state, o.halves) for o in session.sends),
    )


def bits(begin: int, end: int) -> int:
    return (1 << max(begin, end)) - (1 << begin)


def half_of(begin: int, end: int, half: int) -> int:
    middle = (begin + end) // 2
    return bits(begin, middle) if half == 0 else bits(middle, end)
