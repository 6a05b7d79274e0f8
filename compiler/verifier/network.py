"""What is under way between the actors: one first-in-first-out channel per connection and direction.

A connection is a pair of workers, or one call of the router. Values only; knows no actors.
"""

from collections.abc import Iterable
from typing import NamedTuple

from mserve.compiler.verifier.signals import ROUTER, Kind, Signal


class Wire(NamedTuple):
    """From whom to whom; `call` is the number of the dispatch, -1 between two workers."""

    source: int
    target: int
    call: int = -1


Channels = tuple[tuple[Wire, tuple[Signal, ...]], ...]  # sorted, none empty


def wire_of(source: int, target: int, signal: Signal) -> Wire:
    """The connection that `signal` takes."""
    is_call = ROUTER in (source, target)
    return Wire(source, target, signal.subject if is_call else -1)


def frozen(channels: dict[Wire, tuple[Signal, ...]]) -> Channels:
    return tuple(sorted(item for item in channels.items() if item[1]))


def without_first(channels: Channels, wire: Wire) -> dict[Wire, tuple[Signal, ...]]:
    changed = dict(channels)
    changed[wire] = changed[wire][1:]
    return changed


_TO_RECEIVER = frozenset((Kind.DATA, Kind.FIN, Kind.WITHDRAW))
_TO_SENDER = frozenset((Kind.GRANT, Kind.ACK, Kind.REFUSE))


def is_dead(signal: Signal, ended: int) -> bool:
    """It is about a ticket or a send that has ended at its worker: nothing will ever come of it."""
    if signal.kind in _TO_RECEIVER:
        return bool(ended >> 2 * signal.subject & 1)
    return signal.kind in _TO_SENDER and bool(ended >> 2 * signal.subject + 1 & 1)


def without_dead(
    channels: dict[Wire, tuple[Signal, ...]], worker: int, ended: int
) -> dict[Wire, tuple[Signal, ...]]:
    return {
        wire: tuple(s for s in signals if not is_dead(s, ended))
        if wire.target == worker
        else signals
        for wire, signals in channels.items()
    }


def cut_off(channels: dict[Wire, tuple[Signal, ...]], worker: int, peers: Iterable[int]) -> None:
    """The peers see the connection to `worker` break, after what has reached them."""
    for peer in peers:
        wire = Wire(worker, peer)
        lost = Signal(Kind.LOST, worker)
        if channels.get(wire, ())[-1:] != (lost,):
            channels[wire] = (*channels.get(wire, ()), lost)
