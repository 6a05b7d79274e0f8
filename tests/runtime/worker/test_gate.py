"""Calls that do not belong to the cluster are refused by its workers."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from mserve.runtime.cluster.signing import HEADER, CallSigner
from mserve.runtime.worker.gate import Gate

TOKEN = "0123456789abcdef"
PATH = "/v1/microserving/plan"
BODY = b"a plan call"


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def call(
    headers: dict[str, str],
    *,
    body: bytes = BODY,
    path: str = PATH,
    method: str = "POST",
    query: bytes = b"",
) -> tuple[int, Any]:
    """(status, what the app behind the gate read, or the problem)."""
    clock, sent, unread = Clock(), [], [body[:3], body[3:]]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        read, more = b"", True
        while more:
            message = await receive()
            read, more = read + message["body"], message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(read.decode()).encode()})

    async def receive() -> Any:
        return {"type": "http.request", "body": unread.pop(0), "more_body": bool(unread)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: Any = {"type": "http", "method": method, "path": path, "headers": raw}
    scope["query_string"] = query
    asyncio.run(Gate(app, TOKEN, "w-0", clock, 1000)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def signed(token: str = TOKEN, at_s: float = 0.0, **what: Any) -> dict[str, str]:
    parts = {"worker": "w-0", "method": "POST", "path": PATH, "body": BODY, **what}
    return {HEADER: CallSigner(token, lambda: Clock.now_s + at_s).sign(**parts)}


def test_a_signed_call_reaches_the_app_with_its_body() -> None:
    assert call(signed()) == (200, BODY.decode())
    assert call(signed(at_s=-29)) == (200, BODY.decode())


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "has no x-mserve-signature"),
        ({HEADER: "v1"}, "has no"),
        ({HEADER: f"v1 nan {'0' * 64} {'0' * 64}"}, "not of this cluster"),
        ({HEADER: f"v1 1000000.000 {hashlib.sha256(BODY).hexdigest()} \xe9"}, "not of this"),
        (signed("another cluster's"), "not of this cluster"),
        (signed(path="/v1/microserving/match"), "not of this cluster"),
        (signed(method="GET"), "not of this cluster"),
        (signed(worker="w-1"), "not of this cluster"),
        (signed(path=PATH + "?all=1"), "not of this cluster"),
        (signed(at_s=-31), "31 s ago"),
        (signed(at_s=31), "-31 s ago"),
        (signed(body=b"another body"), "not the one that was signed"),
        ({"authorization": "Bearer " + TOKEN[:-1]}, "has no"),
        ({"authorization": TOKEN}, "has no"),
    ],
)
def test_other_calls_are_refused(headers: dict[str, str], says: str) -> None:
    status, problem = call(headers)
    assert status == 401
    assert says in problem["detail"]


def test_a_signature_covers_the_query() -> None:
    assert call(signed(path=PATH + "?all=1"), query=b"all=1")[0] == 200
    assert call(signed(), query=b"all=1")[0] == 401


def test_a_signature_holds_for_its_time_only_if_it_covers_it() -> None:
    """An old signature cannot be given a new time."""
    _, _, digest, mac = signed(at_s=-1000)[HEADER].split(" ")
    assert call({HEADER: f"v1 {Clock.now_s:.3f} {digest} {mac}"})[0] == 401


def test_a_stranger_is_refused_before_its_body_is_read() -> None:
    assert call({}, body=b"x" * 2000)[0] == 401
    assert call(signed(body=b"x" * 2000), body=b"x" * 2000)[0] == 413


def test_people_and_other_routers_bring_the_token() -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for path in ("/microserving/prep_recv", "/drain", "/v1/microserving/state", "/metrics"):
        assert call(bearer, path=path)[0] == 200
        assert call({}, path=path)[0] == 401
    for path in ("/health", "/ready"):
        assert call({}, path=path, method="GET")[0] == 200
