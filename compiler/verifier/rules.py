"""The rules that an exploration obeys: the tables of `compiler.protocol`, or others for comparison."""

from collections.abc import Mapping
from dataclasses import dataclass

from mserve.compiler.protocol import (
    ANSWER,
    CHECKS,
    SEND,
    STEP,
    TICKET,
    AnswerEvent,
    AnswerState,
    Check,
    Message,
    SendEvent,
    SendState,
    StepEvent,
    StepState,
    TicketEvent,
    TicketState,
    Transition,
)


@dataclass(frozen=True, eq=False, slots=True)
class Rules:
    """One protocol. Compared by identity: what was proved about one holds for no other."""

    ticket: Mapping[tuple[TicketState, TicketEvent], Transition[TicketState]]
    send: Mapping[tuple[SendState, SendEvent], Transition[SendState]]
    step: Mapping[tuple[StepState, StepEvent], Transition[StepState]]
    answer: Mapping[tuple[AnswerState, AnswerEvent], Transition[AnswerState]]
    checks: Mapping[Message, tuple[Check, ...]]


RULES = Rules(TICKET, SEND, STEP, ANSWER, CHECKS)
"""Those that the runtime drives."""
