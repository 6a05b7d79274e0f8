"""The moves that lead to a violation, told in sentences. Knows moves only by their names."""

from mserve.compiler.verifier.alone import Event, Solitude
from mserve.compiler.verifier.explorer import Exploration
from mserve.compiler.verifier.scene import Part, Scene
from mserve.compiler.verifier.signals import OF_TRANSFERS, ROUTER, Kind, Signal
from mserve.compiler.verifier.steps import Move

_FAULTS = {
    "crash": "{who} crashes, and stays away.",
    "restart": "{who} crashes, and comes up again as a new incarnation.",
    "cancel": "The client goes away.",
    "give up": "No token comes in time: the router gives up.",
    "router crash": "The router crashes; all its connections break.",
    "lease": "At {who} the lease of ticket {ticket} runs out.",
    "silence": "{who} hears nothing of the receiver of ticket {ticket} for too long.",
    "unclaimed": "At {who} no plan claims ticket {ticket} in time.",
    "hold back": "{signal} from {source} to {who} is held back.",
}
_ARRIVALS = {
    "deliver": "{who} gets {signal} from {source}.",
    "late": "{who} gets {signal} from {source}, late.",
    "twice": "{who} gets {signal} from {source} twice.",
    "repeat": "{who} gets {signal} from {source}, which will come once more.",
    "foreign": "{who} gets {signal}, from a worker that has no part in it.",
}


def story(scene: Scene, result: Exploration) -> tuple[str, ...]:
    """One sentence per move, then what is wrong."""
    sentences = [_sentence(scene, move) for move in result.moves]
    return (*sentences, f"{result.sentence[:1].upper()}{result.sentence[1:]}.")


def story_alone(part: Part, found: Solitude) -> tuple[str, ...]:
    """The same of one worker among others that may do anything."""
    sentences = [_sentence_alone(part, event) for event in found.events]
    return (*sentences, f"{found.sentence[:1].upper()}{found.sentence[1:]}.")


def _sentence_alone(part: Part, event: Event) -> str:
    signal = event.signal
    ticket = part.transfers[signal.subject].name if signal.kind in OF_TRANSFERS else ""
    match event.what:
        case "lease":
            return f"At the worker the lease of ticket {ticket} runs out."
        case "silence":
            return f"The worker hears nothing of the receiver of ticket {ticket} for too long."
        case "unclaimed":
            return f"At the worker no plan claims ticket {ticket} in time."
        case "push":
            return f"The worker sends on under ticket {ticket}."
    other = " from a worker that has no part in it" if signal.is_foreign else ""
    named = f" of ticket {ticket}" if ticket else f" ({signal.subject + 1})"
    return f"The worker gets {signal.kind.upper()}{named}{other}."


def _sentence(scene: Scene, move: Move) -> str:
    text = (_FAULTS | _ARRIVALS)[move.what].format(
        who=_name(scene, move.who),
        signal="" if move.signal is None else _message(scene, move.signal),
        source="" if move.wire is None else _name(scene, move.wire.source),
        ticket="" if move.signal is None else _ticket(scene, move.signal),
    )
    return text[:1].upper() + text[1:]


def _name(scene: Scene, actor: int) -> str:
    if actor == ROUTER:
        return "the router"
    return scene.workers[actor] if actor < len(scene.workers) else "another worker"


def _ticket(scene: Scene, signal: Signal) -> str:
    is_ticket = signal.kind in OF_TRANSFERS
    return scene.transfers[signal.subject].name if is_ticket else ""


def _message(scene: Scene, signal: Signal) -> str:
    if signal.kind in OF_TRANSFERS:
        half = (" (first half)", " (second half)")[signal.detail]
        part = half if signal.kind is Kind.DATA else ""
        return f"{signal.kind.upper()} of ticket {_ticket(scene, signal)}{part}"
    match signal.kind:
        case Kind.LOST:
            return f"word that the connection to {_name(scene, signal.subject)} is gone"
        case Kind.PLAN:
            return f"call {signal.subject + 1}"
        case Kind.CLOSE:
            return f"the close of call {signal.subject + 1}"
        case Kind.TOKEN:
            return f"token {signal.detail + 1} under call {signal.subject + 1}"
        case _:
            return f"'{signal.kind}' of call {signal.subject + 1}"
