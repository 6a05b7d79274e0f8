"""The router's client at a worker behind a gate and TLS: signed and verified, or not at all."""

import asyncio
import ssl
import subprocess
import time
from contextlib import aclosing, suppress
from typing import Any

import pytest
from msgspec.structs import replace

from mserve.runtime import asgi, http_server
from mserve.runtime.cluster.signing import CallSigner
from mserve.runtime.errors import Unauthorized, WorkerLost
from mserve.runtime.messages import FrameKind, PlanCall, decode_plan_call, encode_frame
from mserve.runtime.router.client import HttpClient
from mserve.runtime.worker.gate import Gate

TOKEN = "a token of this cluster"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> http_server.Tls:
    folder = tmp_path_factory.mktemp("tls")
    made = http_server.Tls(folder / "cert.pem", folder / "key.pem")
    argv = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=t"
    )
    argv += f" -addext subjectAltName=IP:127.0.0.1 -keyout {made.key} -out {made.certificate}"
    subprocess.run(argv.split(), check=True, capture_output=True)
    made.check()
    return made


async def worker_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the plan's id."""
    call = decode_plan_call(await asgi.read_body(receive, 1 << 20))
    frame = encode_frame(FrameKind.TOKENS, call.plan_id.encode())
    await asgi.respond(send, 200, frame)


def ask(kit: Any, tls: http_server.Tls, client: HttpClient, host: str = "127.0.0.1") -> bytes:
    async def main() -> bytes:
        listener = http_server.bind("127.0.0.1", 0)
        app = Gate(worker_app, TOKEN, "w-0", time.time, 1 << 20)
        server = asyncio.create_task(http_server.serve(app, listener, tls))
        url = http_server.url_of(listener, host, "https")
        info = replace(kit.cluster("w-0").workers["w-0"].info, url=url)
        try:
            async with aclosing(client.execute(info, PlanCall("p1", b"", ()))) as frames:
                return b"".join([frame.payload async for frame in frames])
        finally:
            await client.close()
            server.cancel()
            with suppress(asyncio.CancelledError):
                await server
            listener.close()

    return asyncio.run(main())


def client(token: str, tls: http_server.Tls | None) -> HttpClient:
    signer = CallSigner(token, time.time) if token else None
    context = ssl.create_default_context(cafile=tls.certificate) if tls else None
    return HttpClient(signer=signer, tls=context)


def test_a_member_of_the_cluster_is_answered(kit: Any, tls: http_server.Tls) -> None:
    assert ask(kit, tls, client(TOKEN, tls)) == b"p1"


@pytest.mark.parametrize("token", ["", "another cluster's token"])
def test_a_stranger_is_refused(kit: Any, tls: http_server.Tls, token: str) -> None:
    with pytest.raises(Unauthorized):
        ask(kit, tls, client(token, tls))


def test_a_worker_that_cannot_prove_its_name_is_not_called(kit: Any, tls: http_server.Tls) -> None:
    with pytest.raises(WorkerLost, match=r"(?i)certificate"):
        ask(kit, tls, client(TOKEN, None))
    with pytest.raises(WorkerLost, match=r"(?i)certificate"):
        ask(kit, tls, client(TOKEN, tls), host="localhost")
