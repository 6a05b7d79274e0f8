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


def cut_off(channels: dict[Wire, tuple[Signal, ...]], worker: int, peers: Iterable[int]) -> None:
    """The peers see the connection to `worker` break, after what has reached them."""
    for peer in peers:
        wire = Wire(worker, peer)
        lost = Signal(Kind.LOST, worker)
        if channels.get(wire, ())[-1:] != (lost,):
            channels[wire] = (*channels.get(wire, ()), lost)
