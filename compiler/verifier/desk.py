"""What the two sides of transfers at a worker of an exploration share: sessions, pages, letters."""

from abc import ABC, abstractmethod

from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Part, Task
from mserve.compiler.verifier.signals import Letter
from mserve.compiler.verifier.views import (
    Choices,
    Outcome,
    Send,
    Session,
    SessionView,
    Ticket,
    WorkerState,
    freeze,
)


class Desk(ABC):
    """The state of worker `index` of a scene, taken apart. Unless it `is_prompt`, what can be sent
    waits for `push`."""

    def __init__(
        self,
        scene: Part,
        rules: Rules,
        index: int,
        state: WorkerState,
        choices: Choices,
        *,
        is_prompt: bool = True,
    ) -> None:
        self._scene = scene
        self._is_prompt = is_prompt
        self._rules = rules
        self._index = index
        self._choices = choices
        self._incarnation = state.incarnation
        self._newest = state.newest
        self._parked = list(state.parked)
        self._ended = state.ended
        self._leaving = state.leaving
        self._sessions = {view.number: self._thaw(view) for view in state.sessions}
        self._letters: list[Letter] = []

    def result(self) -> Outcome:
        sessions = tuple(freeze(session) for _, session in sorted(self._sessions.items()))
        state = WorkerState(
            self._incarnation,
            self._newest,
            sessions,
            tuple(sorted(self._parked)),
            self._ended,
            self._leaving,
        )
        return Outcome(state, tuple(self._letters))

    @abstractmethod
    def _settle(self, session: Session) -> None: ...

    @abstractmethod
    def _fail(self, session: Session, culprit: int) -> None: ...

    def _task(self, number: int) -> Task:
        """The stage's task here; every later dispatch is a whole request on one worker."""
        if number < len(self._scene.stages):
            return next(t for t in self._scene.stages[number] if t.worker == self._index)
        return Task(self._index)

    def _check_read(self, session: Session, pieces: int, doing: str) -> None:
        missing = pieces & ~session.kv
        if missing:
            raise Violation(Property.KV, f"it {doing}, of which KV is missing")

    # --- pages -----------------------------------------------------------------------------------

    def _hold(self, session: Session, name: int) -> None:
        session.holds |= 1 << name

    def _holds(self, session: Session, name: int) -> bool:
        return bool(session.holds >> name & 1)

    def _let_go(self, session: Session, name: int) -> None:
        if not self._holds(session, name):
            raise Violation(Property.PAGES, "a transfer lets go of pages that it does not hold")
        session.holds &= ~(1 << name)

    def _ticket(self, number: int) -> Ticket | None:
        every = (t for s in self._sessions.values() for t in s.tickets if t.number == number)
        return next(every, None)

    def _send(self, number: int) -> Send | None:
        every = (o for s in self._sessions.values() for o in s.sends if o.number == number)
        return next(every, None)

    def _thaw(self, view: SessionView) -> Session:
        session = Session(view.number, self._task(view.number), *view[1:8])
        session.tickets = [Ticket(session, *ticket) for ticket in view.tickets]
        session.sends = [Send(session, *send) for send in view.sends]
        return session
