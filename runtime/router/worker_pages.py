"""What an operator does to one worker over HTTP.

    POST /v1/workers/NAME/drain   it takes no more plans, finishes what runs, leaves and ends

Needs the operator's token. Knows no plan.
"""

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mserve.runtime import asgi
from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.errors import NotFound, RequestError
from mserve.runtime.router import responses
from mserve.runtime.router.client import WorkerClient
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.operator import Operator


class WorkerPages:
    def __init__(self, fleet: Fleet, client: WorkerClient, operator: Operator) -> None:
        self._fleet = fleet
        self._client = client
        self._operator = operator

    def routes(self) -> list[Route]:
        return [Route("/v1/workers/{name}/drain", _Drain(self), methods=["POST"])]

    async def drain(self, scope: Scope, send: Send) -> None:
        self._operator.check(scope)
        worker = self._worker(scope["path_params"]["name"])
        await self._client.drain(worker)
        await asgi.respond_json(send, {"worker": worker.name, "draining": True})

    def _worker(self, name: str) -> WorkerInfo:
        """Raises NotFound."""
        known = {member.info.name: member.info for member in self._fleet.members}
        if name not in known:
            there = ", ".join(sorted(known)) or "no worker"
            raise NotFound(f"There is no worker '{name}' in this cluster: there is {there}.")
        return known[name]


class _Drain:
    """An object, since Starlette takes functions for something else."""

    def __init__(self, pages: WorkerPages) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._pages.drain(scope, send)
        except RequestError as error:
            await asgi.respond(send, error.status, responses.error_body(error))
