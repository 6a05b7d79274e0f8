"""Who is in the cluster: what a worker announces once and what each of its heartbeats says.

Two services keep this, each real (Redis) and in memory: the registry (membership, heartbeats) and
the prefix index (which worker has which KV blocks). This module holds the data and the Protocols.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from mserve.runtime.cost import CostProfile

HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TIMEOUT_S = 2.5  # two heartbeats missed
MAX_WORKERS = 256  # of a cluster: the prefix index has one byte for a worker


class KvLayout(Struct, frozen=True, forbid_unknown_fields=True):
    """What two workers must agree on to exchange KV. Page size and TP degree may differ."""

    model: str
    weights: str  # digest of the weights' identity: same KV for the same tokens
    dtype: str
    num_layers: int
    kv_heads: int
    head_dim: int

    @property
    def fingerprint(self) -> str:
        """Readable, so that a refusal can show both sides."""
        shape = f"{self.num_layers}x{self.kv_heads}x{self.head_dim}"
        return f"{self.model}:{self.weights}:{self.dtype}:{shape}"


class WorkerInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker announces. `name` is `pool-index`; `incarnation` is new at each start."""

    name: str
    pool: str
    incarnation: str
    url: str
    transport_address: bytes
    layout: KvLayout
    page_size: int
    num_pages: int
    block_tokens: int
    max_model_len: int
    cost: CostProfile
    pid: int = 0
    gpus: int = 1  # tensor-parallel degree
    max_batch_tokens: int = 0  # of a step; 0 in this and the next two: not said
    chunk_tokens: int = 0  # of one prompt in a step
    max_running: int = 0  # sequences in a step


class WorkerStats(Struct, frozen=True, forbid_unknown_fields=True):
    """One heartbeat. Tokens and requests are counts; `draining` workers take no new plans."""

    running: int = 0
    waiting: int = 0
    prefill_tokens: int = 0  # prompt tokens admitted and not computed yet
    kv_used_tokens: int = 0  # pinned by running sequences
    kv_cached_tokens: int = 0  # evictable
    kv_total_tokens: int = 0
    host_cached_tokens: int = 0  # in host memory
    prefill_drift: float = 1.0  # how many times as long steps take as `cost` says
    decode_drift: float = 1.0
    tickets: int = 0  # KV ranges announced, arriving or in use
    draining: bool = False


class Member(Struct, frozen=True):
    """A live worker: heard from within the registry's time-out."""

    info: WorkerInfo
    stats: WorkerStats
    age_s: float  # since its last heartbeat


class Registry(Protocol):
    """Membership. A worker not heard from for `timeout_s` (2 heartbeats missed) is gone."""

    async def announce(self, info: WorkerInfo) -> None:
        """Joins, or joins anew under another incarnation, which ends the old one.

        Raises Gone to an incarnation that a later one has replaced (it must exit), and Unavailable
        while the registry cannot be reached (try again).
        """
        ...

    async def heartbeat(self, name: str, incarnation: str, stats: WorkerStats) -> bool:
        """False if the registry does not know this incarnation (any more): announce again, and
        `resync` the prefix index, which has probably lost the same. Raises Unavailable."""
        ...

    async def leave(self, name: str, incarnation: str) -> None:
        """Ends this incarnation at once; does nothing to another. Raises Unavailable."""
        ...

    async def members(self) -> list[Member]:
        """Live workers, ordered by pool and index. While the registry cannot be reached, and for
        one time-out after, none of those last heard of is taken for dead: serving goes on."""
        ...

    async def close(self) -> None: ...


class BlockEvents(Struct, frozen=True):
    """Blocks that entered and left one worker's cache, in order, evictions first."""

    sequence: int  # counts from 1 for each incarnation
    evicted: tuple[int, ...] = ()
    stored: tuple[int, ...] = ()


class PrefixIndex(Protocol):
    """Which worker has which KV blocks (keys of runtime/blocks.py)."""

    async def publish(self, worker: str, incarnation: str, events: BlockEvents) -> bool:
        """Applies one batch of a worker's events; one applied before is not applied again.

        False on a gap, a stale incarnation or an index out of reach: the worker then calls
        `resync`. A batch with `sequence` 1 needs no resync: a new incarnation starts empty.
        """
        ...

    async def resync(
        self, worker: str, incarnation: str, sequence: int, blocks: Sequence[int]
    ) -> None:
        """Replaces all the index holds for `worker` by `blocks`, as of `sequence`.

        Until done, the worker is held to have nothing. Raises Gone to an incarnation that a later
        one has replaced (it must exit), Unavailable if it did not come through (try again), NoRoom
        beyond `MAX_WORKERS`.
        """
        ...

    async def lookup(self, keys: Sequence[int]) -> dict[str, int]:
        """For each worker that has the first of `keys`, how many of them it has without a gap.

        Never fails: an index out of reach knows of nobody, which costs only a worse placement.
        """
        ...

    async def forget(self, worker: str, incarnation: str | None = None) -> None:
        """Drops a dead worker: masked at once, swept in the background. With `incarnation`, only
        if it is still that one. Should it live after all, its next batch makes it resync.
        Raises Unavailable."""
        ...

    async def close(self) -> None: ...
