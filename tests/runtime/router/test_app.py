"""The router over real sockets: the OpenAI API as clients use it, and what happens when they go."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from mserve.compiler.plan import LimitsSpec
from mserve.runtime.errors import EngineFailure, NoRoom
from mserve.runtime.router.client import InProcessClient

PROMPT = "The quick brown fox"
TOKENS = [ord(character) for character in PROMPT]
Client = httpx.AsyncClient


def text_of(tokens: list[int]) -> str:
    return "".join(f" {token}" for token in tokens)


def official(client: Client) -> openai.AsyncOpenAI:
    """The official library; use it with `async with`."""
    return openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)


# --- the official client ---------------------------------------------------------------------------


def test_completions(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        async with official(client) as api:
            return await api.completions.create(model=kit.MODEL, prompt=PROMPT, max_tokens=5)

    answer = kit.serve(use)
    assert answer.choices[0].text == text_of(kit.expected_tokens(TOKENS, 5))
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.model == kit.MODEL
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (19, 5, 24)
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_streamed_completions(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        async with official(client) as api:
            stream = await api.completions.create(
                model=kit.MODEL,
                prompt=TOKENS,
                max_tokens=5,
                stream=True,
                stream_options={"include_usage": True},
            )
            return [chunk async for chunk in stream]

    *chunks, last = kit.serve(use)
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == text_of(kit.expected_tokens(TOKENS, 5))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["length"]
    assert last.choices == []
    assert last.usage.completion_tokens == 5
    assert len({chunk.id for chunk in (*chunks, last)}) == 1


def test_chat(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        async with official(client) as api:
            return await api.chat.completions.create(
                model=kit.MODEL,
                messages=[
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                ],
                max_completion_tokens=4,
            )

    answer = kit.serve(use)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert len(answer.choices[0].message.content.split()) == 4
    assert answer.id.startswith("chatcmpl-")


def test_streamed_chat_begins_with_the_role(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        async with official(client) as api:
            stream = await api.chat.completions.create(
                model=kit.MODEL,
                messages=[{"role": "user", "content": "Hello"}],
                max_tokens=4,
                stream=True,
            )
            return [chunk async for chunk in stream]

    chunks = kit.serve(use)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None]
    assert len("".join(delta.content or "" for delta in deltas).split()) == 4
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat_without_a_limit_may_use_the_rest_of_the_context(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        cluster.add("workers-0", max_model_len=200)
        await router.fleet.refresh()
        body = {"model": kit.MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        answer = await client.post("/v1/chat/completions", json=body)
        return answer.json()["usage"]

    usage = kit.serve(use)
    assert usage["total_tokens"] == 200


def test_models(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        async with official(client) as api:
            models = await api.models.list()
            one = await api.models.retrieve(kit.MODEL)
            with pytest.raises(openai.NotFoundError):
                await api.models.retrieve("other")
            return [model.id for model in models.data], one.id

    assert kit.serve(use) == ([kit.MODEL], kit.MODEL)


# --- errors ---------------------------------------------------------------------------------

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": PROMPT}


def test_refusals_with_a_status_of_their_own(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> list[Any]:
        answers = [
            await client.post("/v1/completions", json=COMPLETION | {"model": "other"}),
            await client.post("/v1/completions", json=COMPLETION | {"prompt": "x" * 5000}),
            await client.post("/v1/completions", json=COMPLETION | {"prompt": "x" * 20_000}),
            await client.get("/v1/completions"),
            await client.get("/v2/nothing"),
            await client.get("/v1/plans/none"),
        ]
        return [(a.status_code, a.json()["error"]["code"]) for a in answers]

    assert kit.serve(use, max_body_bytes=10_000) == [
        (404, "model_not_found"),
        (400, "context_length_exceeded"),
        (413, None),
        (405, None),
        (404, None),
        (404, None),
    ]


def test_a_workers_refusal_has_its_status_and_retry_after(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        worker = cluster.workers["workers-0"]
        worker.script = kit.Script(refuse=NoRoom("full", retry_after_s=2.5), times=1000)
        full = await client.post("/v1/completions", json=COMPLETION)
        worker.script = kit.Script(refuse=EngineFailure("poison"))
        poison = await client.post("/v1/completions", json=COMPLETION)
        after = await client.post("/v1/completions", json=COMPLETION)
        return full, poison, after

    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.1, 0))
    full, poison, after = kit.serve(use, strategy=strategy)
    assert (full.status_code, full.headers["retry-after"]) == (429, "3")
    assert (poison.status_code, poison.json()["error"]["message"]) == (500, "poison")
    assert after.status_code == 200


def test_without_a_worker_it_is_503(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        cluster.workers.clear()
        await router.fleet.refresh()
        ready = await client.get("/ready")
        return await client.post("/v1/completions", json=COMPLETION), ready

    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.05, 0))
    answer, ready = kit.serve(use, strategy=strategy)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert ready.status_code == 503


def test_an_error_after_the_first_token_ends_the_stream_with_its_event(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> str:
        cluster.workers["workers-0"].script = kit.Script(lose_after=2, times=9)
        body = COMPLETION | {"stream": True}
        return (await client.post("/v1/completions", json=body)).text

    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.2, 0))
    events = kit.serve(use, strategy=strategy).strip().split("\n\n")
    assert len(events) == 3
    assert json.loads(events[-1].removeprefix("data: "))["error"]["type"] == "worker_lost_error"


# --- clients that go, or read slowly ------------------------------------------------------------------


async def post_raw(client: Client, body: dict[str, Any]) -> tuple[Any, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(
        client.base_url.host, client.base_url.port, limit=1024
    )
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_cancels_the_plan(kit: Any, stream: bool) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> float:
        worker = cluster.workers["workers-0"]
        worker.script = kit.Script(hang_after=2)
        reader, writer = await post_raw(client, COMPLETION | {"stream": stream})
        if stream:
            await reader.readuntil(b"data: ")
        await kit.until(lambda: worker.running == 1)
        writer.close()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await kit.until(lambda: worker.cancelled == 1)
        (record,) = router.plans
        await kit.until(lambda: record.state == "cancelled")
        return loop.time() - began

    assert kit.serve(use) < 1.0


def test_a_client_that_leaves_while_waiting_for_a_route_leaves_nothing(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> None:
        cluster.workers.clear()
        await router.fleet.refresh()
        _, writer = await post_raw(client, COMPLETION)
        await kit.until(lambda: len(router.plans) == 1)
        writer.close()
        (record,) = router.plans
        await kit.until(lambda: record.state == "cancelled")

    kit.serve(use)


def test_a_slow_reader_holds_its_worker_back(kit: Any) -> None:
    """Nothing is buffered without bound: the worker's generator stands still until there is room."""

    produced = 0

    async def generate(info: Any, call: Any) -> Any:
        nonlocal produced
        for _ in range(100):
            produced += 1
            yield kit.tokens_frame(produced, "x" * 1_000_000)
        yield kit.finish_frame(19, 100)

    async def use(client: Client, cluster: Any, router: Any) -> tuple[int, int]:
        reader, writer = await post_raw(client, COMPLETION | {"stream": True, "max_tokens": 100})
        await kit.until(lambda: produced > 0)
        before = -1
        while before != produced:  # until it stands still
            before = produced
            await asyncio.sleep(0.05)
        stalled = produced
        while await reader.read(1 << 20):
            if produced == 100:
                break
        writer.close()
        return stalled, produced

    stalled, in_the_end = kit.serve(use, client=InProcessClient(generate))
    assert stalled < 30
    assert in_the_end == 100


# --- headers, plans, metrics --------------------------------------------------------------------------


def test_headers_and_the_plan_behind_them(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        answer = await client.post(
            "/v1/completions", json=COMPLETION, headers={"x-request-id": "my-id"}
        )
        plan_id, route, version = answer.headers["x-mserve-plan"].split("; ")
        assert version == "version=1"
        plan = (await client.get(f"/v1/plans/{plan_id}")).json()
        listed = (await client.get("/v1/plans")).json()["plans"]
        return answer, plan, route, listed

    answer, plan, route, listed = kit.serve(use)
    assert answer.headers["x-request-id"] == "my-id"
    assert route == "route=only"
    assert plan["request_id"] == "my-id"
    assert listed == [{"id": plan["id"], "request_id": "my-id", "state": "done"}]
    assert plan["attempts"][0]["steps"][0]["generated"] == 16


@pytest.mark.parametrize("sent", ["x" * 200, "with space", ""])
def test_an_unsafe_request_id_is_replaced(kit: Any, sent: str) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> str:
        headers = {"x-request-id": sent}
        answer = await client.post("/v1/completions", json=COMPLETION, headers=headers)
        return answer.headers["x-request-id"]

    assert len(kit.serve(use)) == 44


def test_metrics_and_health(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        await client.post("/v1/completions", json=COMPLETION)
        await client.post("/v1/completions", json=COMPLETION | {"n": 0})
        await kit.until(lambda: kit.idle(router))
        health, ready = await client.get("/health"), await client.get("/ready")
        return (await client.get("/metrics")).text, health.json(), ready

    text, health, ready = kit.serve(use)
    assert 'mserve_router_requests_total{route="only",state="done"} 1' in text
    assert "mserve_router_output_tokens_total 16" in text
    assert 'mserve_router_errors_total{status="400"} 1' in text
    assert 'mserve_router_request_seconds_bucket{le="+Inf"} 1' in text
    assert 'mserve_router_workers{pool="workers"} 1' in text
    assert 'mserve_router_reserved_seconds{worker="workers-0"} 0' in text
    assert health["strategy"] == "fake"
    assert (ready.status_code, ready.json()["pools"]) == (200, {"workers": ["workers-0"]})
