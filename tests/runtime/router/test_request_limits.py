"""Bodies that no honest client sends: refused with a sentence, and the router lives on."""

import asyncio
from typing import Any

import httpx
import pytest


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"model": "' + b"x" * 3000 + b'"}', 413, "larger than 2000 bytes"),
        (b'{"metadata": ' + b"[" * 900 + b"]" * 900 + b"}", 400, "recursion limit"),
        (b"\xff", 400, "not valid JSON"),
    ],
)
def test_refused(kit: Any, body: bytes, status: int, says: str) -> None:
    async def main() -> None:
        strategy = kit.Strategy(kit.generate_on_first)
        router = kit.router(kit.cluster("workers-0"), strategy, max_body_bytes=2000)
        async with kit.serving(router) as url, httpx.AsyncClient(base_url=url) as client:
            answer = await client.post("/v1/completions", content=body)
            assert answer.status_code == status, answer.text
            assert says in answer.json()["error"]["message"]
            assert (await client.get("/health")).status_code == 200

    asyncio.run(main())
