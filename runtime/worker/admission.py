"""What a plan call must look like before anything is done about it. Functions of values.

The engine checks what concerns tokens and ranges (engine/intake.py); here are names, tickets and
receivers.
"""

from mserve.runtime.errors import Conflict, Unprocessable
from mserve.runtime.messages import (
    CommitCall,
    PlanCall,
    PrepRecvCall,
    ReleaseCall,
    RemoteSendCall,
    StartGenerateCall,
)
from mserve.runtime.worker.sends import Sends
from mserve.runtime.worker.tickets import Tickets

MAX_NAME = 256  # characters of a plan, step or ticket name
MAX_STEPS = 256


def check_names(call: PlanCall) -> None:
    """Raises Unprocessable for names that are too long, Conflict for a step named twice."""
    if len(call.steps) > MAX_STEPS:
        raise Unprocessable(f"A call has at most {MAX_STEPS} steps, not {len(call.steps)}.")
    names = [step.step for step in call.steps]
    if len(set(names)) < len(names):
        raise Conflict("Two steps of the call have the same name.")
    receivers = [r for step in call.steps if isinstance(step, RemoteSendCall) for r in step.to]
    written = [text for r in receivers for text in (r.worker, r.incarnation)]
    for name in (call.plan_id, *names, *_made(call), *_sent(call), *written):
        if len(name) > MAX_NAME:
            raise Unprocessable(f"A name has at most {MAX_NAME} characters, not {len(name)}.")


def check_transfers(call: PlanCall, tickets: Tickets, sends: Sends, own_address: bytes) -> None:
    """Raises Conflict for a ticket that exists already, Unprocessable for one that no step uses and
    for a send to this worker itself."""
    made, sent = _made(call), _sent(call)
    for name in made:
        if tickets.get(name) is not None or made.count(name) > 1:
            raise Conflict(f"Ticket {name} exists already.")
    for name in sent:
        if sends.knows(name) or sent.count(name) > 1:
            raise Conflict(f"KV is being sent under ticket {name} already.")
    sends_of_call = [step for step in call.steps if isinstance(step, RemoteSendCall)]
    for step in sends_of_call:
        if any(receiver.address == own_address for receiver in step.to):
            raise Unprocessable(f"Step {step.step} sends to the worker that it runs on.")
    _check_uses(call, made, tickets)


def _check_uses(call: PlanCall, made: list[str], tickets: Tickets) -> None:
    """What a generation does not name would be waited for and never be there; nor would what no
    ticket of the plan is."""
    used = {name for step in call.steps for name in _used(step)}
    for name in used.difference(made, [ticket.name for ticket in tickets.of(call.key)]):
        raise Unprocessable(f"Ticket {name} is used, but no `prep_recv` of this plan made it.")
    if not any(isinstance(step, StartGenerateCall) for step in call.steps):
        return
    earlier = [t.name for t in tickets.of(call.key) if t.wanted is None]
    for name in (*made, *earlier):
        if name not in used:
            raise Unprocessable(f"No step uses ticket {name}; name it in `uses`, or release it.")


def _used(step: object) -> tuple[str, ...]:
    if isinstance(step, RemoteSendCall | StartGenerateCall):
        return step.uses
    return (step.ticket,) if isinstance(step, CommitCall | ReleaseCall) else ()


def _made(call: PlanCall) -> list[str]:
    return [step.ticket for step in call.steps if isinstance(step, PrepRecvCall)]


def _sent(call: PlanCall) -> list[str]:
    sends = [step for step in call.steps if isinstance(step, RemoteSendCall)]
    return [receiver.ticket for step in sends for receiver in step.to]


def keeps_connection(call: PlanCall) -> bool:
    """Whether the call is answered only when its plan is over here. One that only registers tickets
    is answered before, and a lease must hold them."""
    return any(not isinstance(step, PrepRecvCall) for step in call.steps)
