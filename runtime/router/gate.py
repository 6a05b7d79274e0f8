"""Who may ask a router what, and as whom: API keys, the operator's token, and salts of tenants.

    /health, /ready                                  everybody
    /v1/completions, /v1/chat/completions            a key
    /v1/models, /v1/plans/ID                         a key or the operator's token
    anything else (plans, cluster, metrics, ...)     the operator's token: it shows all tenants

Stands before the router's app. Without a file of keys there is no gate, and everybody may ask.
"""

import hmac
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mserve.runtime import asgi
from mserve.runtime.errors import Unauthorized
from mserve.runtime.router import responses
from mserve.runtime.router.keys import ApiKey, KeyFile

OPEN_PATHS = frozenset({"/health", "/ready"})
GENERATE_PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
_SHARED_PREFIXES = ("/v1/models", "/v1/plans/")
_SCOPE_KEY = "mserve.api_key"
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="mserve"'),)
SALT_BYTES = 16


class Gate:
    """An ASGI app that lets through to `app` whom `keys` know and answers 401 to others."""

    def __init__(self, app: ASGIApp, keys: KeyFile, admin_token: str = "") -> None:
        self._app = app
        self._keys = keys
        self._admin = admin_token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Unauthorized as error:
            body = responses.error_body(error)
            await asgi.respond(send, error.status, body, headers=_CHALLENGE)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Notes the key in the scope. Raises Unauthorized."""
        path: str = scope["path"]
        if path in OPEN_PATHS:
            return
        token = _bearer(scope)
        is_admin = bool(self._admin) and hmac.compare_digest(token, self._admin)
        if is_admin and path not in GENERATE_PATHS:
            return
        key = self._keys.find(token.decode("latin-1")) if token else None
        if key is None:
            raise Unauthorized(
                "This server needs a key that it knows as `Authorization: Bearer ...`.",
                code="invalid_api_key",
            )
        if path not in GENERATE_PATHS and not path.startswith(_SHARED_PREFIXES):
            raise Unauthorized(
                f"A key opens completions, /v1/models and /v1/plans/ID; {path} needs the operator's "
                "token (MSERVE_ADMIN_TOKEN), as it shows what all tenants do.",
                code="not_the_operator",
            )
        scope[_SCOPE_KEY] = key


def key_of(scope: Mapping[str, Any]) -> ApiKey | None:
    """Whose request this is; None where there is no gate."""
    key: ApiKey | None = scope.get(_SCOPE_KEY)
    return key


def cache_salt(secret: bytes, key: ApiKey | None, asked: str) -> bytes:
    """What a prompt's KV is found under. A tenant's is drawn from a secret, so no request can name
    another tenant's; what the request asks for parts a tenant's own cache further."""
    if key is None:
        return asked.encode()
    text = f"{key.tenant}\n{asked}".encode()  # a tenant's name has no newline
    return hmac.digest(secret, text, "sha256")[:SALT_BYTES]


def _bearer(scope: Scope) -> bytes:
    scheme, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
    is_bearer = scheme.lower() == b"bearer"
    return token.strip() if is_bearer else b""
