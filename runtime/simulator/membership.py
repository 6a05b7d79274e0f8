"""What simulated workers say of themselves as members of a cluster. Knows no engine and no faults."""

from mserve.runtime.cluster.membership import KvLayout, WorkerInfo
from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.config import EngineConfig


def virtual_info(
    name: str,
    pool: str,
    number: int,
    address: bytes,
    *,
    layout: KvLayout,
    engine: EngineConfig,
    cost: CostProfile,
    gpus: int = 1,
) -> WorkerInfo:
    """Of the worker's incarnation `number`; others reach its KV at `address`."""
    return WorkerInfo(
        name=name,
        pool=pool,
        incarnation=f"{name}#{number}",
        url=f"virtual://{name}/{number}",
        transport_address=address,
        layout=layout,
        page_size=engine.page_size,
        num_pages=engine.num_pages,
        block_tokens=engine.page_size,
        max_model_len=engine.max_model_len,
        cost=cost,
        gpus=gpus,
    )
