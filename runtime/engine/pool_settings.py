"""The settings of a strategy's pool that concern its engines. The one place that knows their names.

An operator's options and a simulated engine's limits have the same fields for them; what the
strategy says goes before what either had.
"""

from dataclasses import replace
from typing import TypeVar

from mserve.compiler.plan import PoolSpec
from mserve.runtime.config import EngineOptions
from mserve.runtime.engine.config import EngineConfig

Limits = TypeVar("Limits", EngineConfig, EngineOptions)


def with_settings(limits: Limits, pool: PoolSpec) -> Limits:
    """`limits`, changed by what the pool says of batches, queue and prefix cache."""
    settings = pool.settings
    if isinstance(batch := settings.get("batch"), dict):
        tokens = int(batch.get("tokens", limits.max_batch_tokens))
        chunk = int(batch.get("chunk", limits.chunk_tokens))
        limits = replace(limits, max_batch_tokens=tokens, chunk_tokens=min(chunk, tokens))
        limits = replace(
            limits,
            batch=batch["kind"],
            spread=float(batch.get("spread", limits.spread)),
            patience_s=float(batch.get("patience", limits.patience_s)),
            fill=float(batch.get("fill", limits.fill)),
        )
    if isinstance(queue := settings.get("queue"), dict):
        groups = int(queue.get("groups", limits.queue_groups))
        limits = replace(limits, queue=queue["kind"], queue_groups=groups)
    if isinstance(cache := settings.get("prefix_cache"), dict):
        limits = replace(limits, prefix_cache=cache["kind"] != "none")
    return limits


def host_cache_bytes(pool: PoolSpec) -> int | None:
    """What the pool says of host memory for KV; None if nothing."""
    size = pool.settings.get("host_cache")
    return int(size) if isinstance(size, int | float) else None
