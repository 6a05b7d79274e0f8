"""Which workers a simulated cluster has: a strategy's pools, on given GPUs, with given engine limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mserve.compiler.plan import PoolSpec
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.decode_cost import DecodeCost
from mserve.runtime.engine.pool_settings import host_cache_bytes, with_settings
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.hardware import Hardware
from mserve.runtime.simulator.links import LinkSpec
from mserve.runtime.simulator.measured_cost import MeasuredCost
from mserve.runtime.simulator.priced_worker import WorkerSpec
from mserve.runtime.simulator.profile import Profile
from mserve.runtime.simulator.step_cost import HardwareCost, Link


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What all workers have in common, unless their pool says otherwise. Counts are tokens."""

    gpu: str = "h200"
    model: str = "llama-3.1-8b"
    weights: str = "bf16"
    gpus: int | None = None  # of each worker; None: what its pool says
    link: Link = "network"
    page_size: int = 64
    memory_share: float = 0.9  # of the GPU's, for weights and KV
    max_model_len: int = 131_072
    max_batch_tokens: int = 8192
    chunk_tokens: int = 8192
    max_running: int = 256
    max_sequences: int = 100_000
    splits_kv: bool = True


MAX_REPEAT = 1 << 20  # steps in a run: the scheduler's own bounds are nearer


def plan_workers(
    pools: Sequence[PoolSpec],
    counts: Mapping[str, int],
    options: WorkerOptions,
    hardware: Hardware,
) -> list[WorkerSpec]:
    """Every worker, pool by pool; `counts` goes before what pools say. Raises ConfigError."""
    _check_names(pools, counts)
    return [
        spec
        for pool in pools
        for spec in _pool_workers(pool, counts.get(pool.name, pool.workers), options, hardware)
    ]


def plan_measured(
    pools: Sequence[PoolSpec], counts: Mapping[str, int], profile: Profile
) -> list[WorkerSpec]:
    """As `plan_workers`, of workers that are all like those that were measured. Raises ConfigError."""
    _check_names(pools, counts)
    cost, link = MeasuredCost(profile), profile.link
    spec = LinkSpec(link.bytes_per_s, link.kv_bytes_per_token, link.num_layers)
    return [
        WorkerSpec(f"{pool.name}-{index}", pool.name, engine, cost, profile.reported, spec)
        for pool in pools
        for engine in [_with_settings(_measured_engine(profile), pool, link.kv_bytes_per_token)]
        for index in range(counts.get(pool.name, pool.workers))
    ]


def _measured_engine(profile: Profile) -> EngineConfig:
    limits = profile.limits
    return EngineConfig(
        num_pages=limits.num_pages,
        page_size=limits.page_size,
        max_model_len=limits.max_model_len,
        max_batch_tokens=limits.max_batch_tokens,
        chunk_tokens=min(limits.chunk_tokens, limits.max_batch_tokens),
        max_running=limits.max_running,
        max_sequences=100_000,
        max_repeat=MAX_REPEAT,
        decode_cost=DecodeCost.fitted(MeasuredCost(profile).decode_time),
    )


def _check_names(pools: Sequence[PoolSpec], counts: Mapping[str, int]) -> None:
    known = [pool.name for pool in pools]
    for name in counts:
        if name not in known:
            raise ConfigError(f"The strategy has no pool '{name}'; it has {', '.join(known)}.")


def _pool_workers(
    pool: PoolSpec, count: int, options: WorkerOptions, hardware: Hardware
) -> list[WorkerSpec]:
    cost = HardwareCost.named(
        hardware,
        options.gpu,
        options.model,
        weights=options.weights,
        tensor_parallel=options.gpus or pool.gpus,
        splits_kv=options.splits_kv,
        page_size=options.page_size,
    )
    engine = _engine(pool, cost, options)
    profile = cost.profile(chunk_tokens=engine.chunk_tokens, link=options.link)
    link = LinkSpec(
        cost.link_bytes_per_s(options.link), cost.kv_bytes_per_token, cost.model.num_layers
    )
    return [
        WorkerSpec(f"{pool.name}-{index}", pool.name, engine, cost, profile, link)
        for index in range(count)
    ]


def _engine(pool: PoolSpec, cost: HardwareCost, options: WorkerOptions) -> EngineConfig:
    config = EngineConfig(
        num_pages=max(1, cost.num_kv_tokens(options.memory_share) // options.page_size),
        page_size=options.page_size,
        max_model_len=options.max_model_len,
        max_batch_tokens=options.max_batch_tokens,
        chunk_tokens=min(options.chunk_tokens, options.max_batch_tokens),
        max_running=options.max_running,
        max_sequences=options.max_sequences,
        max_repeat=MAX_REPEAT,
        decode_cost=DecodeCost.fitted(cost.decode_time, move_s=cost.move_s),
    )
    return _with_settings(config, pool, cost.kv_bytes_per_token)


def _with_settings(config: EngineConfig, pool: PoolSpec, kv_bytes_per_token: float) -> EngineConfig:
    """What the strategy says of the pool."""
    config = with_settings(config, pool)
    host_bytes = host_cache_bytes(pool)
    if host_bytes is None:
        return config
    return replace(config, host_pages=int(host_bytes // (kv_bytes_per_token * config.page_size)))
