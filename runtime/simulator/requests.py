"""From arrivals to the router's requests: tokens that are equal exactly where the arrivals' blocks are.

They mean nothing: a token is half of its block's id, so that making a prompt costs a copy. Knows no
cluster.
"""

import struct

from mserve.runtime.messages import Render, Sampling
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.traffic.arrivals import Arrival

_MASK = (1 << 31) - 1  # token ids are not negative
_PAIR = struct.Struct("<ii")


def request_id(number: int) -> str:
    return f"request-{number}"


def request_of(arrival: Arrival, number: int) -> GenerationRequest:
    """The answer is as long as the arrival says."""
    length = arrival.num_output
    return GenerationRequest(
        id=request_id(number),
        tokens=prompt_tokens(arrival),
        sampling=Sampling(max_tokens=length, min_tokens=length, ignore_eos=True),
        render=Render(),
        facts={"session": arrival.session} if arrival.session is not None else {},
    )


def prompt_tokens(arrival: Arrival) -> bytes:
    """`arrival.num_prompt` ids, int32 little endian."""
    num_bytes = 4 * arrival.block_tokens
    pairs, odd = divmod(arrival.block_tokens, 2)
    blocks = [_block_pair(block) * (pairs + odd) for block in arrival.blocks]
    if odd:
        blocks = [block[:num_bytes] for block in blocks]
    return b"".join(blocks)[: 4 * arrival.num_prompt]


def _block_pair(block: int) -> bytes:
    return _PAIR.pack(block & _MASK, (block >> 31) & _MASK)
