"""Whether a strategy and a running cluster fit: everything that would fail or mislead later, said
before traffic. Functions of values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from mserve.compiler.plan import PoolSpec
from mserve.runtime.cluster.view import WorkerView


def mismatches(pools: Sequence[PoolSpec], workers: Sequence[WorkerView]) -> list[str]:
    """One sentence per problem, the gravest first; empty if requests can be served as written."""
    used = [worker for worker in workers if worker.pool in {pool.name for pool in pools}]
    return [
        *_missing_pools(pools, workers),
        *_differing_kv(used),
        *_differing_blocks(used),
        *_differing_gpus(pools, used),
        *_indivisible_heads(pools, used),
        *_missing_workers(pools, used),
    ]


def _missing_pools(pools: Sequence[PoolSpec], workers: Sequence[WorkerView]) -> Iterator[str]:
    names = sorted({worker.pool for worker in workers})
    there = f"the cluster has {_listed(names)}" if names else "the cluster has no worker"
    for pool in pools:
        if pool.name not in names:
            yield (
                f"No worker serves pool '{pool.name}'; {there}. Start one with "
                f"`mserve worker --pool {pool.name} ...`."
            )
    unused = sorted(set(names) - {pool.name for pool in pools})
    if unused and any(pool.name not in names for pool in pools):
        yield f"No step of the strategy runs on the workers of {_listed(unused)}."


def _differing_kv(workers: Sequence[WorkerView]) -> Iterator[str]:
    """Workers of another model or shape of KV cannot take part in one plan."""
    for what, key in _KV_PARTS.items():
        groups = _grouped(workers, key)
        if len(groups) > 1:
            yield f"Workers differ in their {what}: {_sides(groups)}. They must be equal."
            return  # the others follow from it


def _dimensions(worker: WorkerView) -> str:
    return worker.layout.rpartition(":")[2]


def _kv_heads(worker: WorkerView) -> int:
    return int(_dimensions(worker).split("x")[1])


def _weights(worker: WorkerView) -> str:
    return worker.layout.rsplit(":", 3)[1]


_KV_PARTS: Mapping[str, Callable[[WorkerView], str]] = {
    "model": lambda worker: worker.model,
    "dtype": lambda worker: worker.dtype,
    "weights": _weights,
    "shape of KV (layers x heads x dimensions)": _dimensions,
}


def _differing_blocks(workers: Sequence[WorkerView]) -> Iterator[str]:
    groups = _grouped(workers, lambda worker: str(worker.block_tokens))
    if len(groups) > 1:
        yield (
            f"Workers differ in the block size of their prefix caches: {_sides(groups)}. "
            "The router finds prefixes by blocks of one size; start all with one --page-size."
        )


def _differing_gpus(pools: Sequence[PoolSpec], workers: Sequence[WorkerView]) -> Iterator[str]:
    wanted = {pool.name: pool.gpus for pool in pools}
    for worker in workers:
        if worker.gpus != wanted[worker.pool]:
            yield (
                f"Worker {worker.name} runs on {worker.gpus} GPU(s); pool '{worker.pool}' says "
                f"`gpus = {wanted[worker.pool]}`."
            )


def _indivisible_heads(pools: Sequence[PoolSpec], workers: Sequence[WorkerView]) -> Iterator[str]:
    """Degrees may differ between pools, as KV travels with all heads, but not split a head."""
    for heads in sorted({_kv_heads(worker) for worker in workers}):
        for pool in pools:
            if heads % pool.gpus:
                yield (
                    f"Pool '{pool.name}' says `gpus = {pool.gpus}`, but the model's {heads} "
                    f"key-value heads cannot be shared evenly by {pool.gpus}."
                )


def _missing_workers(pools: Sequence[PoolSpec], workers: Sequence[WorkerView]) -> Iterator[str]:
    for pool in pools:
        there = sum(1 for worker in workers if worker.pool == pool.name)
        if 0 < there < pool.workers:
            yield f"Pool '{pool.name}' says `workers = {pool.workers}`; {there} are there."


def _grouped(
    workers: Sequence[WorkerView], key: Callable[[WorkerView], str]
) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for worker in workers:
        groups.setdefault(key(worker), []).append(worker.name)
    return groups


def _sides(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value} on {_listed(names)}" for value, names in groups.items())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
