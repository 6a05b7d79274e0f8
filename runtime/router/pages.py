"""What a router answers beside generations: models, health, readiness, metrics, plans that ran."""

from collections.abc import Awaitable, Callable

from msgspec import to_builtins
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mserve.compiler.observe import Decider
from mserve.runtime import asgi
from mserve.runtime.cluster.view import ClusterView, PoolView, worker_views
from mserve.runtime.errors import BadRequest, NotFound, RequestError
from mserve.runtime.router import responses
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.gate import key_of
from mserve.runtime.router.plans import PlanLog, PlanRecord, plan_json
from mserve.runtime.router.reservations import Reservations
from mserve.runtime.router.telemetry import RouterMetrics

PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
Handler = Callable[[Scope, Send], Awaitable[None]]


class Page:
    """One GET as an ASGI endpoint; typed errors become OpenAI error objects."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._handler(scope, send)
        except RequestError as error:
            await asgi.respond(send, error.status, responses.error_body(error))


class Pages:
    """Reads only."""

    def __init__(
        self,
        strategy: Decider,
        model: str,
        fleet: Fleet,
        plans: PlanLog,
        metrics: RouterMetrics,
        reservations: Reservations,
        *,
        created: int,
    ) -> None:
        self._strategy = strategy
        self._model = model
        self._fleet = fleet
        self._plans = plans
        self._metrics = metrics
        self._reservations = reservations
        self._created = created

    def routes(self) -> list[Route]:
        table: dict[str, Handler] = {
            "/v1/models": self.models,
            "/v1/models/{model:path}": self.one_model,
            "/v1/cluster": self.cluster,
            "/v1/plans": self.recent_plans,
            "/v1/plans/{id}": self.plan,
            "/v1/plans/of/{id}": self.request_plans,
            "/health": self.health,
            "/ready": self.ready,
            "/metrics": self.metrics,
        }
        return [Route(path, Page(handler), methods=["GET"]) for path, handler in table.items()]

    async def models(self, scope: Scope, send: Send) -> None:
        await asgi.respond_json(send, {"object": "list", "data": [self._model_entry()]})

    async def one_model(self, scope: Scope, send: Send) -> None:
        name = scope["path_params"]["model"]
        if name != self._model:
            raise NotFound(
                f"The model `{name}` does not exist; this server has `{self._model}`.",
                param="model",
                code="model_not_found",
            )
        await asgi.respond_json(send, self._model_entry())

    async def cluster(self, scope: Scope, send: Send) -> None:
        """Every worker that the registry knows, as this router sees it."""
        await asgi.respond_json(send, to_builtins(self.view()))

    def view(self) -> ClusterView:
        loads_s = {name: load.seconds for name, load in self._reservations.loads().items()}
        ready = self._fleet.snapshot.members
        return ClusterView(
            strategy=self._strategy.name,
            model=self._model,
            pools=tuple(PoolView(p.name, p.workers, p.gpus) for p in self._strategy.pools),
            workers=worker_views(self._fleet.members, ready, loads_s),
            prompts=self._metrics.prompts(),
        )

    async def recent_plans(self, scope: Scope, send: Send) -> None:
        """The newest first; at most 100."""
        listed = [_entry(record) for record, _ in zip(self._plans, range(100), strict=False)]
        await asgi.respond_json(send, {"plans": listed})

    async def request_plans(self, scope: Scope, send: Send) -> None:
        """Those of one request, a plan for each choice, in order."""
        request_id = scope["path_params"]["id"]
        records = [r for r in self._plans.of_request(request_id) if _may_see(scope, r)]
        if not records:
            raise NotFound(
                f"No request `{request_id}` is known here: its id stands in the x-request-id header "
                "of its answer."
            )
        await asgi.respond_json(send, {"plans": [_entry(record) for record in records]})

    async def plan(self, scope: Scope, send: Send) -> None:
        plan_id = scope["path_params"]["id"]
        record = self._plans.get(plan_id)
        if record is None or not _may_see(scope, record):
            raise NotFound(
                f"No plan `{plan_id}` is known here: the id stands in the x-mserve-plan header of "
                f"an answer, and the last {self._plans.size} plans are kept by the router that "
                "made them.",
                param="id",
            )
        await asgi.respond_json(send, plan_json(record))

    async def health(self, scope: Scope, send: Send) -> None:
        await asgi.respond_json(send, {"alive": True, "strategy": self._strategy.name})

    async def ready(self, scope: Scope, send: Send) -> None:
        """Whether every pool of the strategy has a worker that takes plans."""
        live = {spec.name: list(self._workers(spec.name)) for spec in self._strategy.pools}
        ready = all(live.values())
        await asgi.respond_json(send, {"ready": ready, "pools": live}, 200 if ready else 503)

    async def metrics(self, scope: Scope, send: Send) -> None:
        text = self._metrics.metrics.render()
        await asgi.respond(send, 200, text.encode(), PROMETHEUS)

    def _workers(self, pool: str) -> tuple[str, ...]:
        return self._fleet.snapshot.pools.get(pool, ())

    def _model_entry(self) -> dict[str, object]:
        return responses.model_entry(self._model, self._created, self._fleet.snapshot.max_model_len)


def _entry(record: PlanRecord) -> dict[str, str]:
    return {"id": record.id, "request_id": record.request_id, "state": record.state.value}


def _may_see(scope: Scope, record: PlanRecord) -> bool:
    """A key shows its own tenant's plans; where there is no key, all or the operator's."""
    key = key_of(scope)
    return key is None or key.tenant == record.tenant


async def unknown_path(connection: HTTPConnection, error: Exception) -> Response:
    """For Starlette: 404 as an OpenAI error object."""
    problem = NotFound(
        f"There is nothing at {connection.url.path}; try /v1/completions, /v1/chat/completions, "
        "/v1/models, /v1/plans/{id}, /v1/cluster, /health, /ready or /metrics."
    )
    return _response(problem, problem.status)


async def wrong_method(connection: HTTPConnection, error: Exception) -> Response:
    """For Starlette: 405 as an OpenAI error object."""
    assert isinstance(error, HTTPException), "Starlette raises this itself"
    allowed = (error.headers or {}).get("Allow", "another method")
    problem = BadRequest(f"{connection.url.path} takes {allowed}.")
    response = _response(problem, error.status_code)
    response.headers["allow"] = allowed
    return response


def _response(error: RequestError, status: int) -> Response:
    return Response(responses.error_body(error), status, media_type="application/json")
