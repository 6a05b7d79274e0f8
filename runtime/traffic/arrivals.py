"""Traffic: when requests arrive, how long they are, and which of them begin alike.

Owns the `Arrival` record, the ids of prompts' blocks, and the scaling of traffic. Traces are read in
traces.py, traffic is made up in workloads.py. Knows neither tokens nor a cluster.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from xxhash import xxh3_64_intdigest

from mserve.runtime.errors import ConfigError

BLOCK_TOKENS = 64
"""Of traffic that does not come in blocks of its own."""


class TrafficError(ConfigError):
    """A trace, or a description of traffic, that cannot be used; says where and what to do."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request. Equal ids in `blocks` mean equal prompts up to the end of that block.

    Block i stands for the prompt's tokens [i * block_tokens, (i + 1) * block_tokens), the last one
    for what is left, which may be less. `session` names the conversation that it is a turn of.
    """

    at_s: float  # since the trace began
    num_prompt: int  # tokens
    num_output: int  # tokens
    blocks: tuple[int, ...]
    block_tokens: int
    session: str | None = None

    def __post_init__(self) -> None:
        assert self.num_prompt > 0, "A request has a prompt."
        assert self.num_output > 0, "A request asks for a token."
        assert len(self.blocks) == num_blocks(self.num_prompt, self.block_tokens), (
            "The blocks are those of the prompt."
        )


def num_blocks(num_tokens: int, block_tokens: int) -> int:
    """The last of them may be partial."""
    return -(-num_tokens // block_tokens)


def chained(parent: int, content: int | str, num_tokens: int) -> int:
    """The key of a beginning of prompts: `content` after the beginning `parent` (0: after nothing).

    64 bits, the same in every process.
    """
    return xxh3_64_intdigest(f"{parent} {num_tokens} {content}".encode())


def block_ids(parts: Sequence[tuple[int, int]], block_tokens: int) -> tuple[int, ...]:
    """Ids of the blocks of a prompt made of `parts`: (key by `chained`, tokens) each.

    A block is known by its end and the part which its last token is in. So prompts share the blocks
    that end within the parts that they have in common, and a partial block is like no whole one.
    """
    ids: list[int] = []
    part_end = 0
    for key, num_tokens in parts:
        part_end += num_tokens
        next_end = (len(ids) + 1) * block_tokens
        ids += [key ^ end for end in range(next_end, part_end + 1, block_tokens)]
    if part_end % block_tokens:
        ids.append(parts[-1][0] ^ part_end)
    return tuple(ids)


def unlike_any(content: int | str, num_prompt: int, block_tokens: int) -> tuple[int, ...]:
    """Ids of the blocks of a prompt that shares nothing with prompts of other `content`."""
    return block_ids([(chained(0, content, num_prompt), num_prompt)], block_tokens)


def scaled(
    arrivals: Iterable[Arrival],
    *,
    rate: float | None = None,
    speed: float = 1.0,
    limit: int | None = None,
    duration_s: float | None = None,
) -> Iterator[Arrival]:
    """The first `limit` arrivals, faster or slower, and of those the ones before `duration_s`.

    Either `rate` (requests/s on average, for which they are all held in memory) or `speed` (2 makes
    times half as long). Raises TrafficError where no factor gives the rate.
    """
    assert speed > 0, "Time goes forward."
    first: Iterable[Arrival] = itertools.islice(arrivals, limit)
    if rate is not None:
        held = list(first)
        first, speed = held, rate / _mean_rate(held)
    for arrival in first:
        at_s = arrival.at_s / speed
        if duration_s is not None and at_s >= duration_s:
            return
        yield arrival if speed == 1.0 else replace(arrival, at_s=at_s)


def _mean_rate(arrivals: Sequence[Arrival]) -> float:
    """Requests/s from the first arrival to the last."""
    span_s = arrivals[-1].at_s - arrivals[0].at_s if arrivals else 0.0
    if span_s <= 0:
        raise TrafficError(
            f"These {len(arrivals)} requests arrive at one time, so they cannot be scaled to a"
            " rate: take more of them, or leave the rate out."
        )
    return (len(arrivals) - 1) / span_s
