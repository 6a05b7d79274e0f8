"""The router of an exploration: one answer, its attempts and their open calls, driven by ANSWER.

Mirrors runtime/router/executor.py. A plan that is made anew is the whole request on one worker that
is not known to have failed. Knows no channels: it takes what a call says, and gives letters.
"""

from typing import NamedTuple

from mserve.compiler.protocol import (
    AnswerEvent,
    AnswerState,
    Effect,
    ProtocolError,
    advance,
)
from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.rules import Rules
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.signals import Kind, Letter, Signal
from mserve.compiler.verifier.views import Choices

RETRIES = 2
FINAL = (AnswerState.DONE, AnswerState.FAILED, AnswerState.CANCELLED)


class RouterState(NamedTuple):
    """`open` holds (dispatch, worker) of calls that are read; `excluded` a bit for every worker that
    failed; `is_told`: the client's stream has its ending, `has_finish`: the stage has."""

    state: AnswerState = AnswerState.PLANNING
    emitted: int = 0
    number: int = -1
    is_first: bool = True
    is_told: bool = False
    has_finish: bool = False
    retries: int = 0
    excluded: int = 0
    open: tuple[tuple[int, int], ...] = ()

    @property
    def is_over(self) -> bool:
        return self.state in FINAL and not self.open

    def is_copying(self, scene: Scene) -> bool:
        """The answer is over, and what is open makes copies for later."""
        is_last = self.is_first and self.number == len(scene.stages) - 1
        return self.state in FINAL and bool(scene.num_background) and is_last


class Router:
    """The router in one state; methods are what can happen to it. All raise Violation."""

    def __init__(self, scene: Scene, rules: Rules, state: RouterState, choices: Choices) -> None:
        self._scene = scene
        self._rules = rules
        self._choices = choices
        self._state = state
        self._letters: list[Letter] = []

    def result(self) -> tuple[RouterState, tuple[Letter, ...]]:
        return _remembered(self._state), tuple(self._letters)

    def start(self) -> None:
        """The first attempt."""
        self._advance(AnswerEvent.PLACED)

    def take(self, worker: int, signal: Signal) -> None:
        """Reads one frame of an open call."""
        match signal.kind:
            case Kind.TOKEN:
                self._on_token(signal)
            case Kind.FINISH:
                self._on_finish(signal)
            case Kind.DONE:
                self._on_done(worker, signal)
            case _:
                culprit = worker if signal.kind is Kind.END_OF_STREAM else signal.detail
                self._on_failure(worker, signal.subject, worker if culprit < 0 else culprit)

    def cancel(self) -> None:
        """The client is gone. After the answer its calls are closed; copies for later go on."""
        if self._state.state in FINAL:
            self._close()
        else:
            self._advance(AnswerEvent.CANCEL)

    def give_up(self) -> None:
        """Nothing came in time. After the answer nobody hears of it."""
        if self._state.state in FINAL:
            self._close()
            self._copy()
        else:
            self._advance(AnswerEvent.GIVE_UP)

    def crash(self) -> None:
        """Every connection breaks; nobody is left to answer."""
        self._set(state=AnswerState.CANCELLED)
        self._close()

    # --- what calls say ------------------------------------------------------------------------

    def _on_token(self, signal: Signal) -> None:
        expected = self._state.emitted
        self._advance(AnswerEvent.TOKEN)
        if signal.detail != expected:
            raise Violation(
                Property.STREAM,
                f"the router has token {signal.detail} of the answer where token {expected} is due",
            )
        self._set(is_told=self._state.is_told or bool(signal.more[0]))

    def _on_finish(self, signal: Signal) -> None:
        total = signal.detail
        if self._state.emitted != total:
            raise Violation(
                Property.STREAM, f"{self._state.emitted} of {total} tokens reached the client"
            )
        self._set(has_finish=True)
        stage = signal.subject
        is_handover = (
            self._state.is_first
            and stage + 1 < self._scene.num_foreground
            and bool(signal.more[0])
            and total < self._scene.num_tokens
        )
        if is_handover:
            return  # taken when the stage's calls have ended
        self._advance(AnswerEvent.FINISH)

    def _on_done(self, worker: int, signal: Signal) -> None:
        self._forget(signal.subject, worker)
        state = self._state
        if state.state in FINAL:
            self._copy()
            return
        if state.open:
            return
        if not state.has_finish:
            self._on_failure(worker, signal.subject, worker)
        else:
            self._advance(AnswerEvent.HANDOVER)

    def _on_failure(self, worker: int, number: int, culprit: int) -> None:
        self._forget(number, worker)
        if self._state.state in FINAL:  # nobody hears of it; what may wait for it ends with it
            self._close()
            self._copy()
            return
        if self._state.is_told or self._state.emitted == self._scene.num_tokens:
            self._close()  # a failure before the answer's end leaves the stage, and all calls with it
            self._advance(AnswerEvent.FINISH)
            return
        self._set(retries=self._state.retries + 1, excluded=self._state.excluded | 1 << culprit)
        if self._state.retries > RETRIES:
            self._advance(AnswerEvent.GIVE_UP)
            return
        self._advance(AnswerEvent.LOST)
        self._place_again()

    def _copy(self) -> None:
        """Copies for later are made when no call of the answer is left."""
        state, last = self._state, len(self._scene.stages) - 1
        is_due = state.state is AnswerState.DONE and state.is_first and state.number < last
        if is_due and self._scene.num_background and not state.open:
            self._dispatch(last)

    def _place_again(self) -> None:
        free = [w for w in range(len(self._scene.workers) + 1) if not self._is_excluded(w)]
        if not free:
            self._advance(AnswerEvent.GIVE_UP)
            return
        spare = len(self._scene.workers)
        survivors = [worker for worker in free if worker != spare] or [spare]
        worker = survivors[self._choices.among(len(survivors))]
        self._set(is_first=False, number=max(self._state.number, len(self._scene.stages) - 1))
        self._advance(AnswerEvent.PLACED, worker)

    def _is_excluded(self, worker: int) -> bool:
        return bool(self._state.excluded >> worker & 1)

    # --- effects -------------------------------------------------------------------------------

    def _advance(self, event: AnswerEvent, worker: int = -1) -> None:
        try:
            transition = advance(self._rules.answer, self._state.state, event)
        except ProtocolError as error:
            raise Violation(Property.END, f"the router comes to a halt: {error}") from None
        self._set(state=transition.state)
        for effect in transition.effects:
            match effect:
                case Effect.DISPATCH if worker >= 0:
                    self._send_whole(worker)
                case Effect.DISPATCH:
                    self._dispatch(self._state.number + 1)
                case Effect.EMIT:
                    self._set(emitted=self._state.emitted + 1)
                case Effect.CLOSE:
                    self._close()
                case _:
                    raise Violation(Property.END, f"'{effect}' is no effect of an answer")

    def _dispatch(self, stage: int) -> None:
        self._set(number=stage, has_finish=False)
        for task in self._scene.stages[stage]:
            more = (task.first_token, task.num_tokens)
            self._open(stage, task.worker, more)

    def _send_whole(self, worker: int) -> None:
        self._set(number=self._state.number + 1, has_finish=False)
        left = self._scene.num_tokens - self._state.emitted
        self._open(self._state.number, worker, (self._state.emitted, left))

    def _open(self, number: int, worker: int, more: tuple[int, ...]) -> None:
        self._letters.append((worker, Signal(Kind.PLAN, number, 1, more)))
        self._set(open=(*self._state.open, (number, worker)))

    def _close(self) -> None:
        for number, worker in self._state.open:
            self._letters.append((worker, Signal(Kind.CLOSE, number)))
        self._set(open=())

    def _forget(self, number: int, worker: int) -> None:
        self._set(open=tuple(call for call in self._state.open if call != (number, worker)))

    def _set(self, **changes: object) -> None:
        self._state = self._state._replace(**changes)  # type: ignore[arg-type]  # fields by name


def _remembered(state: RouterState) -> RouterState:
    """What still matters of a state: when all is over, how it ended and whether it went smoothly."""
    if not state.is_over:
        return state
    return RouterState(state.state, retries=min(1, state.retries))
