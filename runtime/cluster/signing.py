"""Calls that only a cluster's members can make: an HMAC under a secret which all of them have.

A signature covers the worker's name, method, path with query, time and the body's digest, so it is
good for one call at one worker, for `WINDOW_S`. It hides nothing (TLS does), and it can be sent again within its window: plan calls are
idempotent and name the incarnation that they are for. Knows no HTTP library.
"""

import hashlib
import hmac
from collections.abc import Callable

from mserve.runtime.errors import Unauthorized

HEADER = "x-mserve-signature"
WINDOW_S = 30.0  # between the clocks of two members


def derive(token: str, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, so that none says anything about another (HKDF's expand,
    RFC 5869 section 2.3, with one block)."""
    return hmac.digest(token.encode(), f"mserve {purpose}\x01".encode(), "sha256")


class CallSigner:
    """Signs calls and checks them. `now` gives unix seconds."""

    def __init__(self, token: str, now: Callable[[], float]) -> None:
        self._key = derive(token, "worker calls")
        self._now = now

    def sign(self, worker: str, method: str, path: str, body: bytes) -> str:
        """The value of `HEADER`: version, unix seconds, digest of the body, MAC."""
        at_s, digest = f"{self._now():.3f}", hashlib.sha256(body).hexdigest()
        return f"v1 {at_s} {digest} {self._mac(worker, method, path, at_s, digest)}"

    def check_head(self, worker: str, method: str, path: str, signature: str) -> str:
        """The digest that the body must have: a stranger's call is refused before its body is read.
        Raises Unauthorized."""
        parts = signature.split(" ")
        if len(parts) != 4 or parts[0] != "v1":
            raise Unauthorized(
                f"This call has no {HEADER} header of this cluster, nor the cluster's token as "
                "`Authorization: Bearer ...`."
            )
        _, at_s, digest, mac = parts
        expected = self._mac(worker, method, path, at_s, digest)
        if not hmac.compare_digest(mac.encode(), expected.encode()):
            raise Unauthorized("The call's signature is not of this cluster.")
        age_s = self._now() - float(at_s)  # a signed one is a number
        if abs(age_s) > WINDOW_S:
            raise Unauthorized(
                f"The call was signed {age_s:.0f} s ago by this worker's clock, and {WINDOW_S:.0f} s "
                "is the limit: set both clocks."
            )
        return digest

    def check_body(self, body: bytes, digest: str) -> None:
        """Raises Unauthorized if this is not the body that was signed."""
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), digest):
            raise Unauthorized("The call's body is not the one that was signed.")

    def _mac(self, *covered: str) -> str:
        text = "\n".join(covered)
        return hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), "sha256").hex()
