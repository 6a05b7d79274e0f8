import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from mserve.runtime.config import AdmissionOptions
from mserve.runtime.errors import BadRequest, ConfigError, NoRoom
from mserve.runtime.router.admission import Admission


@dataclass
class Hand:
    """A clock's hand, moved by the test."""

    at_s: float = 0.0

    def __call__(self) -> float:
        return self.at_s


def admission(**options: Any) -> tuple[Admission, Hand]:
    clock = Hand()
    return Admission(AdmissionOptions(**options), clock), clock


def test_a_place_is_free_again_when_its_request_ends_however_it_ends() -> None:
    admitted, _ = admission(max_requests=1)
    for _ in range(3):
        with pytest.raises(KeyError), admitted.admit("a"):
            raise KeyError
    assert admitted.num_open == 0


def test_more_than_the_router_takes_is_refused() -> None:
    admitted, _ = admission(max_requests=2)
    with admitted.admit("a"), admitted.admit("b"):
        with pytest.raises(NoRoom, match="2 requests under way") as refused, admitted.admit("c"):
            pass
        assert refused.value.retry_after_s is not None
        assert refused.value.code == "server_overloaded"
    with admitted.admit("c"):
        assert admitted.num_open == 1


def test_one_tenant_cannot_take_every_place() -> None:
    admitted, _ = admission(max_requests=10, per_tenant=2)
    with ExitStack() as stack:
        for tenant in ("a", "a", "b", ""):
            stack.enter_context(admitted.admit(tenant))
        with pytest.raises(NoRoom, match="Tenant 'a' has 2") as refused, admitted.admit("a"):
            pass
        assert refused.value.code == "tenant_overloaded"
        stack.enter_context(admitted.admit("b"))
    with admitted.admit("a"):
        pass


def test_how_long_to_wait_follows_from_how_long_requests_take() -> None:
    admitted, clock = admission(max_requests=1)
    for _ in range(200):
        with admitted.admit("a"):
            clock.at_s += 20.0
    with admitted.admit("a"), pytest.raises(NoRoom) as refused, admitted.admit("a"):
        pass
    assert refused.value.retry_after_s == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize("options", [{"max_requests": 0}, {"per_tenant": -1}])
def test_limits_are_positive(options: Any) -> None:
    with pytest.raises(ConfigError, match=r"--max-requests.* must be at least 1"):
        AdmissionOptions(**options)


def test_over_http_it_is_429_with_retry_after(kit: Any) -> None:
    """The second request of a tenant is refused while the first runs, and served after it."""
    body = {"model": kit.MODEL, "prompt": "x", "max_tokens": 2, "user": "greedy"}

    async def main() -> None:
        cluster = kit.cluster("workers-0")
        worker = cluster.workers["workers-0"]
        worker.script = kit.Script(hang_after=1)
        options = AdmissionOptions(per_tenant=1)
        router = kit.router(cluster, kit.Strategy(kit.generate_on_first), admission=options)
        async with kit.serving(router) as url, httpx.AsyncClient(base_url=url) as client:
            first = asyncio.create_task(client.post("/v1/completions", json=body))
            await kit.until(lambda: worker.running == 1)
            refused = await client.post("/v1/completions", json=body)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "tenant_overloaded"
            assert "mserve_router_open_requests 1" in (await client.get("/metrics")).text
            first.cancel()
            await kit.until(lambda: worker.running == 0)
            worker.script = kit.Script()
            assert (await client.post("/v1/completions", json=body)).status_code == 200

    asyncio.run(main())


def test_the_cluster_as_the_router_sees_it(kit: Any) -> None:
    async def main() -> Any:
        router = kit.router(kit.cluster("workers-0"), kit.Strategy(kit.generate_on_first))
        async with kit.serving(router) as url, httpx.AsyncClient(base_url=url) as client:
            ready = (await client.get("/v1/cluster")).json()
            router.fleet.report_lost(router.fleet.members[0].info)
            return ready, (await client.get("/v1/cluster")).json()

    ready, lost = asyncio.run(main())
    assert [worker["state"] for worker in ready["workers"]] == ["ready"]
    assert [worker["state"] for worker in lost["workers"]] == ["lost"]
    assert ready["pools"] == [{"name": "workers", "workers": 1, "gpus": 1}]
    assert ready["model"] == kit.MODEL


def test_every_answer_of_a_request_takes_a_place() -> None:
    admitted, _ = admission(max_requests=8, per_tenant=4)
    with admitted.admit("a", count=3):
        assert admitted.num_open == 3
        with pytest.raises(NoRoom), admitted.admit("a", count=2):
            pass
        with admitted.admit("a"):
            assert admitted.num_open == 4
    assert admitted.num_open == 0
    with pytest.raises(BadRequest, match="5 answers"), admitted.admit("a", count=5):
        pass
