"""An operator drains a worker through its router."""

import asyncio
from typing import Any

import httpx
import pytest

from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.router.client import InProcessClient

ADMIN = {"authorization": "Bearer secret"}


@pytest.mark.parametrize(
    ("name", "headers", "status", "drained"),
    [
        ("workers-0", ADMIN, 200, ["workers-0"]),
        ("workers-9", ADMIN, 404, []),
        ("workers-0", {}, 401, []),
        ("workers-0", {"authorization": "Bearer other"}, 401, []),
    ],
)
def test_a_worker_is_drained_by_its_name(
    kit: Any, name: str, headers: dict[str, str], status: int, drained: list[str]
) -> None:
    asked: list[str] = []

    def drain(worker: WorkerInfo) -> None:
        asked.append(worker.name)

    async def main() -> httpx.Response:
        cluster = kit.cluster("workers-0", "workers-1")
        client = InProcessClient(cluster.serve, drain)
        strategy = kit.Strategy(kit.generate_on_first)
        router = kit.router(cluster, strategy, client=client, admin_token="secret")
        async with kit.serving(router) as url, httpx.AsyncClient(base_url=url) as http:
            return await http.post(f"/v1/workers/{name}/drain", headers=headers)

    answer = asyncio.run(main())
    assert (answer.status_code, asked) == (status, drained)
    if status == 404:
        assert "there is workers-0, workers-1" in answer.json()["error"]["message"]
