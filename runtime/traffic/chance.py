"""What another seed changes about traffic: something, or nothing at all. Knows no simulation."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.spec import GENERATORS, TrafficOptions
from mserve.runtime.traffic.traces import MOONCAKE_TICK_S, detected

_OF_FORMATS = {
    "mooncake": f"each spreads the arrivals of a tick of {MOONCAKE_TICK_S:g} s over it in another way",
    "conversations": "each draws other times between conversations and between their turns",
}


def has_chance(options: TrafficOptions) -> bool:
    """Whether two seeds differ in a request's time, its lengths, or in what it shares with others. Reads
    on until they do. Raises TrafficError."""
    seeds = (_seen(options.arrivals(seed)) for seed in (0, 1))
    return any(first != second for first, second in zip_longest(*seeds))


def _seen(arrivals: Iterator[Arrival]) -> Iterator[tuple[float, int, int, tuple[int, ...]]]:
    """Each without its blocks' ids: these are numbered as they come, so that only sharing is left."""
    numbers: dict[int, int] = {}
    for arrival in arrivals:
        blocks = tuple(numbers.setdefault(block, len(numbers)) for block in arrival.blocks)
        yield arrival.at_s, arrival.num_prompt, arrival.num_output, blocks


def what_seeds_change(trace: str) -> str:
    """Of a trace whose requests are written down, in words; "" of one that is made up. Raises
    TrafficError."""
    if trace.partition(":")[0] in GENERATORS:
        return ""
    return _OF_FORMATS.get(detected(Path(trace).expanduser()), "its arrivals have exact times")
