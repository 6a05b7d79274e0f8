"""The strategy over HTTP: what is being served, its params, and another one in its place.

    GET   /v1/strategy          name, version, params with their values and ranges
    PATCH /v1/strategy/params   {"tail": "20%"}: from the next decision on, all of them or none
    PUT   /v1/strategy          the text of a .mserve file; a bad one leaves the old one serving

Changes need the operator's token. Knows no language.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mserve.compiler.observe import Strategy
from mserve.runtime import asgi
from mserve.runtime.cluster.compatibility import mismatches
from mserve.runtime.cluster.view import WorkerView
from mserve.runtime.errors import BadRequest, Conflict, RequestError, Unavailable
from mserve.runtime.router import responses
from mserve.runtime.router.live import Adapter, Language, LiveStrategy
from mserve.runtime.router.operator import Operator

MAX_TEXT_BYTES = 1 << 20
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class StrategyPages:
    """`workers` are those of the cluster now."""

    def __init__(
        self,
        live: LiveStrategy,
        adapter: Adapter,
        language: Language | None,
        workers: Callable[[], Sequence[WorkerView]],
        operator: Operator,
    ) -> None:
        self._live = live
        self._adapter = adapter
        self._language = language
        self._workers = workers
        self._operator = operator

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/strategy", self.show),
            ("PUT", "/v1/strategy", self.replace),
            ("PATCH", "/v1/strategy/params", self.set_params),
        ]
        by_path: dict[str, dict[str, Handler]] = {}
        for method, path, handler in table:
            by_path.setdefault(path, {})[method] = handler
        return [
            Route(path, _Endpoint(handlers), methods=list(handlers))
            for path, handlers in by_path.items()
        ]

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asgi.respond_json(send, self._shown())

    async def set_params(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Values as the language writes them, or numbers in base units (seconds, bytes, ratios)."""
        self._operator.check(scope)
        try:
            asked = msgspec.json.decode(
                await asgi.read_body(receive, MAX_TEXT_BYTES), type=dict[str, float | str]
            )
        except msgspec.DecodeError as error:
            raise BadRequest(f"The body is not an object of params: {error}.") from None
        self._live.set_params({name: self._value(name, value) for name, value in asked.items()})
        await asgi.respond_json(send, self._shown())

    async def replace(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checked, proved and compared with the cluster first. Raises Unprocessable, Conflict."""
        self._operator.check(scope)
        if self._language is None:
            raise Unavailable("This router cannot compile strategies.")
        text = await asgi.read_body(receive, MAX_TEXT_BYTES)
        strategy = await asyncio.to_thread(self._language.compile, text)
        problems = mismatches(strategy.pools, self._workers())
        if problems:
            raise Conflict("The cluster cannot serve it: " + " ".join(problems))
        self._live.swap(strategy)
        self._adapter.restart()
        await asgi.respond_json(send, self._shown())

    def _value(self, name: str, value: float | str) -> float:
        if isinstance(value, str) and self._language is not None:
            return self._language.read(self._live.current, name, value)
        if isinstance(value, str):
            raise BadRequest(f"'{name}' takes a number.", param=name)
        return value

    def _shown(self) -> Mapping[str, object]:
        strategy = self._live.current
        return {
            "name": strategy.name,
            "version": self._live.version,
            "pools": [pool.name for pool in strategy.pools],
            "params": {name: _param(strategy, name) for name in strategy.params},
        }


def _param(strategy: Strategy, name: str) -> dict[str, object]:
    spec, value = strategy.params[name], strategy.values[name]
    low, high = strategy.spell(name, spec.low), strategy.spell(name, spec.high)
    return {"value": value, "text": strategy.spell(name, value), "range": f"{low}..{high}"}


class _Endpoint:
    """The handlers of one path by method; typed errors become OpenAI error objects."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        try:
            await self._handlers[method](scope, receive, send)
        except asgi.ClientGone:
            pass
        except RequestError as error:
            await asgi.respond(send, error.status, responses.error_body(error))
