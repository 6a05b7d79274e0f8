"""A cluster as its router shows it (`GET /v1/cluster`), for people and for `mserve check --against`.

Plain data that survives JSON. Knows neither how the router came by it nor how it is printed.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from mserve.runtime.cluster.membership import Member
from mserve.runtime.cost import CostProfile

WorkerState = Literal["ready", "draining", "lost"]


class PoolView(Struct, frozen=True):
    """A pool as the router's strategy declares it."""

    name: str
    workers: int
    gpus: int = 1


class WorkerView(Struct, frozen=True):
    """One worker. `lost`: a connection to it broke, and nothing was heard from it since."""

    name: str
    pool: str
    state: WorkerState
    url: str
    incarnation: str
    heard_s: float  # since its last heartbeat
    model: str
    layout: str  # fingerprint of its KV: model, weights, dtype, shape
    dtype: str
    gpus: int
    page_size: int
    block_tokens: int
    max_model_len: int
    running: int
    waiting: int
    tickets: int
    load_s: float  # estimated work that this router has sent and that is not done
    kv_used_tokens: int
    kv_cached_tokens: int
    kv_total_tokens: int
    num_layers: int = 0
    num_pages: int = 0
    max_batch_tokens: int = 0  # of a step; 0 in this and the next two: not said
    chunk_tokens: int = 0  # of one prompt in a step
    max_running: int = 0  # sequences in a step
    cost: CostProfile | None = None  # as it is now: drift is in it


class PromptsView(Struct, frozen=True):
    """Tokens of the prompts that this router has had answered, and how many of them were cached."""

    tokens: int = 0
    available: int = 0  # on some worker, when the plan was made
    routed: int = 0  # on a worker of the plan
    delivered: int = 0  # no engine computed them


class ClusterView(Struct, frozen=True):
    strategy: str
    model: str  # the name that clients use
    pools: tuple[PoolView, ...]
    workers: tuple[WorkerView, ...]
    prompts: PromptsView = PromptsView()


decode_view = msgspec.json.Decoder(ClusterView).decode


def worker_views(
    members: Sequence[Member], ready: Mapping[str, Member], loads_s: Mapping[str, float]
) -> tuple[WorkerView, ...]:
    """One entry per member; `ready` are those that take plans, by name."""
    return tuple(_view(member, ready, loads_s.get(member.info.name, 0.0)) for member in members)


def _view(member: Member, ready: Mapping[str, Member], load_s: float) -> WorkerView:
    info, stats = member.info, member.stats
    return WorkerView(
        name=info.name,
        pool=info.pool,
        state=_state(member, ready),
        url=info.url,
        incarnation=info.incarnation,
        heard_s=round(member.age_s, 3),
        model=info.layout.model,
        layout=info.layout.fingerprint,
        dtype=info.layout.dtype,
        gpus=info.gpus,
        page_size=info.page_size,
        block_tokens=info.block_tokens,
        max_model_len=info.max_model_len,
        running=stats.running,
        waiting=stats.waiting,
        tickets=stats.tickets,
        load_s=round(load_s, 6),
        kv_used_tokens=stats.kv_used_tokens,
        kv_cached_tokens=stats.kv_cached_tokens,
        kv_total_tokens=stats.kv_total_tokens,
        num_layers=info.layout.num_layers,
        num_pages=info.num_pages,
        max_batch_tokens=info.max_batch_tokens,
        chunk_tokens=info.chunk_tokens,
        max_running=info.max_running,
        cost=info.cost.scaled(stats.prefill_drift, stats.decode_drift),
    )


def _state(member: Member, ready: Mapping[str, Member]) -> WorkerState:
    if member.stats.draining:
        return "draining"
    known = ready.get(member.info.name)
    is_ready = known is not None and known.info.incarnation == member.info.incarnation
    return "ready" if is_ready else "lost"
