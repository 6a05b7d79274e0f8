"""Each rule of the protocol is needed: without it, the exploration finds what goes wrong."""

from dataclasses import replace

import pytest

from mserve.compiler.lower import Shape, make_template
from mserve.compiler.protocol import (
    AnswerEvent,
    AnswerState,
    Check,
    Effect,
    Message,
    SendEvent,
    SendState,
    TicketEvent,
    TicketState,
    Transition,
)
from mserve.compiler.verifier.explorer import explore
from mserve.compiler.verifier.properties import Property
from mserve.compiler.verifier.rules import RULES, Rules
from mserve.compiler.verifier.scene import Scene, scene_of
from mserve.compiler.verifier.story import story

T, TE, S, SE, A, AE = (
    TicketState,
    TicketEvent,
    SendState,
    SendEvent,
    AnswerState,
    AnswerEvent,
)


def _split() -> Scene:
    """One worker computes all but the last token, another generates."""
    shape = Shape(((0, 0, 1), (1, 1, 2)), 2, (0, 0), None, ())
    return scene_of(make_template(shape).plan, {})


def _ticket(state: TicketState, event: TicketEvent, new: TicketState, *effects: Effect) -> Rules:
    return replace(RULES, ticket={**RULES.ticket, (state, event): Transition(new, effects)})


def _send(state: SendState, event: SendEvent, new: SendState, *effects: Effect) -> Rules:
    return replace(RULES, send={**RULES.send, (state, event): Transition(new, effects)})


def _answer(state: AnswerState, event: AnswerEvent, new: AnswerState, *effects: Effect) -> Rules:
    return replace(RULES, answer={**RULES.answer, (state, event): Transition(new, effects)})


def _without(message: Message, check: Check) -> Rules:
    checks = tuple(each for each in RULES.checks[message] if each is not check)
    return replace(RULES, checks={**RULES.checks, message: checks})


_E, _P = Effect, Property
MUTATIONS: dict[str, tuple[Rules, Property]] = {
    "use at the first data": (
        _ticket(T.RESERVED, TE.DATA, T.RECEIVING, _E.COUNT, _E.PUBLISH),
        _P.KV,
    ),
    "a used ticket keeps its hold": (_ticket(T.ARRIVED, TE.USE, T.IN_USE, _E.PUBLISH), _P.PAGES),
    "a released ticket keeps its hold": (
        _ticket(T.RECEIVING, TE.RELEASE, T.RELEASED, _E.REFUSE),
        _P.PAGES,
    ),
    "a reserved ticket keeps its hold": (
        _ticket(T.RESERVED, TE.RELEASE, T.RELEASED, _E.REFUSE),
        _P.PAGES,
    ),
    "a lost sender's ticket keeps its hold": (
        _ticket(T.RECEIVING, TE.SENDER_LOST, T.RELEASED),
        _P.PAGES,
    ),
    "an acknowledged send keeps its hold": (_send(S.FLUSHED, SE.ACK, S.ACKNOWLEDGED), _P.PAGES),
    "a cancelled send keeps its hold": (
        _send(S.OPENING, SE.CANCEL, S.ABORTED, _E.WITHDRAW),
        _P.PAGES,
    ),
    "a refused send keeps its hold": (_send(S.OPENING, SE.REFUSE, S.ABORTED), _P.PAGES),
    "a send lets go at its grant": (_send(S.OPENING, SE.GRANT, S.GRANTED, _E.LET_GO), _P.KV),
    "a released ticket takes data": (_ticket(T.RELEASED, TE.DATA, T.RELEASED, _E.COUNT), _P.KV),
    "an open send is not granted": (_ticket(T.REGISTERED, TE.OPEN, T.RESERVED, _E.HOLD), _P.END),
    "data is not counted": (_ticket(T.RECEIVING, TE.DATA, T.RECEIVING), _P.END),
    "a send is not announced": (_send(S.NEW, SE.OPEN, S.OPENING, _E.HOLD), _P.END),
    "a send is not finished": (_send(S.SENDING, SE.FIN, S.FLUSHED), _P.END),
    "FIN is not checked for completeness": (_without(Message.FIN, Check.COMPLETE), _P.KV),
    "DATA is not checked for its peer": (_without(Message.DATA, Check.PEER), _P.KV),
    "a call for an earlier incarnation begins": (
        _without(Message.PLAN, Check.INCARNATION),
        _P.STALE,
    ),
    "an overtaken call begins": (_without(Message.PLAN, Check.NEWEST), _P.STALE),
    "a call begins twice": (_without(Message.PLAN, Check.FRESH), _P.STALE),
    "a lost attempt is still read": (_answer(A.RUNNING, AE.LOST, A.PLANNING), _P.STREAM),
    "tokens are not counted": (_answer(A.RUNNING, AE.TOKEN, A.RUNNING), _P.STREAM),
    "what has arrived is not acknowledged": (
        _ticket(T.RECEIVING, TE.FIN, T.ARRIVED),
        _P.END,
    ),
    "a failed answer is still read": (_answer(A.RUNNING, AE.GIVE_UP, A.FAILED), _P.END),
    "a cancelled answer is still read": (_answer(A.RUNNING, AE.CANCEL, A.CANCELLED), _P.END),
    "nothing is dispatched": (_answer(A.PLANNING, AE.PLACED, A.RUNNING), _P.END),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_caught_by_its_property(name: str) -> None:
    rules, expected = MUTATIONS[name]
    scene = _split()
    result = explore(scene, 1, rules)
    assert result.broken is expected
    assert len(story(scene, result)) == len(result.moves) + 1


def test_the_real_rules_hold_in_the_same_scene() -> None:
    result = explore(_split(), 1)
    assert (result.broken, result.is_complete) == (None, True)
    assert result.num_states > 1_000


def test_a_repeat_and_a_delay_together_need_the_order_of_data() -> None:
    result = explore(_split(), 2, _without(Message.DATA, Check.ORDER))
    assert result.broken is Property.KV
    assert {"repeat", "hold back"} <= {move.what for move in result.moves}


def test_an_exploration_beyond_its_budget_proves_nothing() -> None:
    result = explore(_split(), 1, max_states=100)
    assert not result.is_complete
    assert result.broken is None
