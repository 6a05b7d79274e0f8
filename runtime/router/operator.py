"""The operator: whoever knows the token that lets one change a running cluster."""

import hmac
from collections.abc import Mapping
from typing import Any

from mserve.runtime.errors import Unauthorized


class Operator:
    """With an empty `token` nobody may change anything."""

    def __init__(self, token: str = "") -> None:
        self._token = token.encode()

    def check(self, scope: Mapping[str, Any]) -> None:
        """Raises Unauthorized unless the call of this ASGI scope brings the token."""
        if not self._token:
            raise Unauthorized(
                "Changes are off: start the router with MSERVE_ADMIN_TOKEN in its environment, and "
                "send it as `Authorization: Bearer ...`."
            )
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._token):
            raise Unauthorized(
                "Changes need the operator's token (MSERVE_ADMIN_TOKEN, with which the router was"
                " started) as `Authorization: Bearer ...`."
            )
