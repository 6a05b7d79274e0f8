"""What one worker does among others that may do anything."""

from dataclasses import replace

import pytest

from mserve.compiler.lower import Shape, make_template
from mserve.compiler.protocol import (
    Check,
    Effect,
    Message,
    SendEvent,
    SendState,
    TicketEvent,
    TicketState,
    Transition,
)
from mserve.compiler.verifier.alone import Solitude, explore_alone
from mserve.compiler.verifier.confluence import is_confluent
from mserve.compiler.verifier.explorer import explore
from mserve.compiler.verifier.parts import parts_of
from mserve.compiler.verifier.properties import Property
from mserve.compiler.verifier.rules import RULES, Rules
from mserve.compiler.verifier.scene import Part, Scene, scene_of
from mserve.compiler.verifier.shapes import RouteForm, scenes_of
from mserve.compiler.verifier.story import story_alone

S, SE, T, TE = SendState, SendEvent, TicketState, TicketEvent


def _split() -> Scene:
    shape = Shape(((0, 0, 1), (1, 1, 2)), 2, (0, 0), None, ())
    return scene_of(make_template(shape).plan, {})


def _sender() -> Part:
    return next(p for p in parts_of(_split()) if any(task.sends for (task,) in p.stages))


def _receiver() -> Part:
    return next(p for p in parts_of(_split()) if any(task.receives for (task,) in p.stages))


def _send(state: SendState, event: SendEvent, *effects: Effect) -> Rules:
    return replace(RULES, send={**RULES.send, (state, event): Transition(S.ABORTED, effects)})


def _violated(part: Part, rules: Rules) -> Solitude:
    found = explore_alone(part, rules)
    assert len(story_alone(part, found)) == len(found.events) + 1
    return found


def test_both_ends_of_a_transfer_hold_whatever_the_others_do() -> None:
    for part in parts_of(_split()):
        found = explore_alone(part)
        assert (found.broken, found.is_complete) == (None, True)
        assert found.num_states > 10


@pytest.mark.parametrize("state", [S.OPENING, S.GRANTED, S.SENDING, S.FLUSHED])
@pytest.mark.parametrize("event", [SE.REFUSE, SE.CANCEL, SE.EXPIRE, SE.RECEIVER_LOST])
def test_every_end_of_a_send_in_every_state_must_let_go(state: SendState, event: SendEvent) -> None:
    """Also those that meet it between its grant and its last message."""
    found = _violated(_sender(), _send(state, event))
    assert found.broken is Property.PAGES


def test_data_that_is_not_checked_for_order_is_read_where_some_is_missing() -> None:
    checks = {**RULES.checks, Message.DATA: (Check.PEER,)}
    assert _violated(_receiver(), replace(RULES, checks=checks)).broken is Property.KV


def test_data_of_others_is_read_where_the_peer_is_not_checked() -> None:
    checks = {**RULES.checks, Message.DATA: (Check.ORDER,)}
    found = _violated(_receiver(), replace(RULES, checks=checks))
    assert found.broken is Property.KV
    assert any(event.signal.is_foreign for event in found.events)


def test_a_released_ticket_that_takes_data_writes_into_others_pages() -> None:
    row = {(T.RELEASED, TE.DATA): Transition(T.RELEASED, (Effect.COUNT,))}
    assert (
        _violated(_receiver(), replace(RULES, ticket={**RULES.ticket, **row})).broken is Property.KV
    )


def test_beyond_its_budget_nothing_is_proved() -> None:
    found = explore_alone(_sender(), max_states=5)
    assert (found.is_complete, found.broken) == (False, None)


def test_parts_that_differ_in_distances_only_are_one() -> None:
    near = Shape(((0, 0, 1), (1, 1, 2)), 2, (0, 0), None, ())
    far = Shape(((0, 0, 1), (1, 1, 3)), 3, (0, 0), None, ())
    one, other = (scene_of(make_template(shape).plan, {}) for shape in (near, far))
    assert parts_of(one) == parts_of(other)


def test_without_faults_one_order_ends_where_all_orders_end() -> None:
    for scene in scenes_of(RouteForm(2)):
        every = explore(scene, 0, has_all_orders=True)
        one = explore(scene, 0)
        assert (one.broken, every.broken) == (None, None)
        assert one.num_ends == every.num_ends
        assert one.num_states <= every.num_states


def test_where_a_step_breaks_a_property_every_order_is_explored() -> None:
    assert is_confluent(_sender(), RULES)
    row = {(T.RESERVED, TE.DATA): Transition(T.RECEIVING, (Effect.PUBLISH,))}
    assert not is_confluent(_receiver(), replace(RULES, ticket={**RULES.ticket, **row}))
