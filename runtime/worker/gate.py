"""Who may call a worker: its cluster's members, by signature; people and other routers, by token.

    /health, /ready               everybody
    POST /v1/microserving/...     signed calls (runtime/cluster/signing.py) or the token
    anything else                 the cluster's token as `Authorization: Bearer ...`, or signed

Stands before the worker's app and knows nothing of the calls.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mserve.runtime import asgi
from mserve.runtime.cluster.signing import HEADER, CallSigner
from mserve.runtime.errors import RequestError

# ASGI's own types, as Starlette names them.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/ready"})
_SIGNATURE = HEADER.encode()


class Gate:
    """An ASGI app that lets calls of the cluster to `worker` through to `app` and answers 401 to
    others."""

    def __init__(
        self,
        app: App,
        token: str,
        worker: str,
        now: Callable[[], float],
        max_body_bytes: int,
    ) -> None:
        assert token, "an empty token would let everybody in"
        self._app = app
        self._bearer = b"Bearer " + token.encode()
        self._worker = worker
        self._signer = CallSigner(token, now)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            receive = await self._checked(scope, receive)
        except asgi.ClientGone:
            return
        except RequestError as error:
            await asgi.respond_problem(send, error)
            return
        await self._app(scope, receive, send)

    async def _checked(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """The body's messages for the app. Raises Unauthorized, TooLarge."""
        if scope["path"] in OPEN_PATHS:
            return receive
        headers = dict(scope["headers"])
        if hmac.compare_digest(headers.get(b"authorization", b""), self._bearer):
            return receive
        signature = headers.get(_SIGNATURE, b"").decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        path = f"{scope['path']}?{query}" if query else scope["path"]
        digest = self._signer.check_head(self._worker, scope["method"], path, signature)
        body = await asgi.read_body(receive, self._max_body_bytes)
        self._signer.check_body(body, digest)
        return _replayed(body, receive)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`body` once, then what comes after it."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return rest.pop() if rest else await receive()

    return replay
