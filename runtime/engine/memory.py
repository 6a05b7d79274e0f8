"""How many pages of KV a device has room for: planned once, before the first request.

What computing needs is measured by running the largest batch there can be. Knows no scheduler.
"""

from array import array
from collections.abc import Callable

import torch

from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Sampling

DEFAULT_BYTES = 256 << 20
"""Of KV where nothing was said and no device has memory of its own to share out."""

_MIB = 1 << 20


def pages_in(num_bytes: int, page_bytes: int) -> int:
    """Whole pages in memory set apart for KV. Raises ConfigError if there is none."""
    if num_bytes < page_bytes:
        raise ConfigError(
            f"{num_bytes} bytes of KV memory hold no page; a page takes {page_bytes}."
        )
    return num_bytes // page_bytes


def pages_in_share(free_bytes: int, share: float, working_bytes: int, page_bytes: int) -> int:
    """Pages in `share` of what the weights leave free, less what computing needs.

    The rest of the free memory stays for what cannot be planned: recorded graphs, libraries' own
    buffers, pieces that the allocator cannot use. Raises ConfigError if no page is left.
    """
    left = int(share * free_bytes) - working_bytes
    if left < page_bytes:
        raise ConfigError(
            f"No GPU memory is left for KV: of {free_bytes // _MIB} MiB beside the weights a share"
            f" of {share} may be used, the largest batch computes in {working_bytes // _MIB} MiB,"
            f" and a page takes {page_bytes // 1024} KiB. Lower --max-batch-tokens or --max-running,"
            " or raise --gpu-memory-share."
        )
    return left // page_bytes


def working_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most CUDA memory that `work` has at one time, over what was in use before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Of a CUDA device, once torch has given back what it only keeps at hand."""
    torch.cuda.empty_cache()
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def largest_batch(
    num_tokens: int, num_sequences: int, most_positions: int, page_size: int
) -> Batch:
    """`num_tokens` in one step, `num_sequences` of which are drawn in the costliest way: with top-p,
    by the sampler itself. All on page 0: what is computed means nothing."""
    num_decodes = max(0, min(num_sequences, num_tokens) - 1)
    chunks: list[Chunk] = []
    rest = num_tokens - num_decodes
    while rest > 0:
        length = min(rest, most_positions - 1)
        chunks.append(Chunk(_scratch(length, page_size), 0, length, sample=not chunks))
        rest -= length
    decodes = [_scratch(1, page_size) for _ in range(num_decodes)]
    for sequence in decodes:
        sequence.tokens.append(0)
        sequence.num_computed = 1
    return Batch(tuple(chunks), tuple(decodes))


def _scratch(length: int, page_size: int) -> Sequence:
    return Sequence(
        key="profile",
        tokens=array("i", bytes(4 * length)),
        num_prompt=length,
        sampling=Sampling(max_tokens=1, temperature=1.0, top_p=0.9, seed=0),
        pages=array("i", bytes(4 * (length // page_size + 1))),
    )
