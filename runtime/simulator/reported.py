"""What a cluster's workers say of themselves, as a profile has it. Measures nothing."""

from collections.abc import Sequence
from statistics import fmean

from mserve.runtime.cluster.view import ClusterView, WorkerView
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.profile import Limits, LinkCosts


def usable(view: ClusterView) -> Sequence[WorkerView]:
    """Those that are ready, all alike. Raises ConfigError."""
    ready = [worker for worker in view.workers if worker.state == "ready"]
    if not ready:
        raise ConfigError("No worker of the cluster is ready.")
    if any(worker.cost is None for worker in ready):
        raise ConfigError(
            "The workers do not say what their work costs: they are of an older mserve."
        )
    kinds = {(w.layout, w.gpus, w.page_size, w.num_pages, w.chunk_tokens) for w in ready}
    if len(kinds) > 1:
        raise ConfigError(
            "The workers differ in model, GPUs, pages, KV memory or batches: a profile is of one kind."
            " Calibrate a cluster of each."
        )
    return ready


def mean_cost(workers: Sequence[WorkerView]) -> CostProfile:
    costs = [worker.cost for worker in workers if worker.cost is not None]
    mean = {
        name: fmean(getattr(cost, name) for cost in costs)
        for name in CostProfile.__struct_fields__
        if name != "kv_bytes_per_token"
    }
    return CostProfile(**mean, kv_bytes_per_token=costs[0].kv_bytes_per_token)


def limits_of(worker: WorkerView) -> Limits:
    """Where a worker does not say, as if it had none but its memory's."""
    return Limits(
        worker.num_pages,
        worker.page_size,
        worker.max_model_len,
        worker.max_batch_tokens or worker.max_model_len,
        worker.chunk_tokens or worker.max_model_len,
        worker.max_running or worker.num_pages,
    )


def link_of(reported: CostProfile, num_layers: int) -> LinkCosts:
    return LinkCosts(
        reported.transfer_base_s,
        reported.transfer_bytes_per_s,
        reported.kv_bytes_per_token,
        max(1, num_layers),
    )
