"""The router over real sockets: the OpenAI API as clients use it, and what happens when they go."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest

from mserve.compiler.plan import LimitsSpec
from mserve.runtime.errors import EngineFailure, NoRoom
from mserve.runtime.router.client import InProcessClient
from mserve.runtime.router.timeline import render_timeline

PROMPT = "The quick brown fox"
TOKENS = [ord(character) for character in PROMPT]
Client = httpx.AsyncClient


def serve(
    kit: Any,
    use: Callable[[Client, Any, Any], Awaitable[Any]],
    *,
    cluster: Any = None,
    strategy: Any = None,
    **options: Any,
) -> Any:
    """Runs `use(client, cluster, router)` against a router with one worker."""

    async def main() -> Any:
        workers = cluster or kit.cluster("workers-0")
        router = kit.router(workers, strategy or kit.Strategy(kit.generate_on_first), **options)
        async with kit.serving(router) as url, Client(base_url=url, timeout=10) as client:
            result = await use(client, workers, router)
            await kit.until(lambda: kit.idle(router))
            return result

    return asyncio.run(main())


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

    answer = serve(kit, use)
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

    *chunks, last = serve(kit, use)
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

    answer = serve(kit, use)
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

    chunks = serve(kit, use)
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

    usage = serve(kit, use)
    assert usage["total_tokens"] == 200


def test_models(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        async with official(client) as api:
            models = await api.models.list()
            one = await api.models.retrieve(kit.MODEL)
            with pytest.raises(openai.NotFoundError):
                await api.models.retrieve("other")
            return [model.id for model in models.data], one.id

    assert serve(kit, use) == ([kit.MODEL], kit.MODEL)


# --- what is refused ---------------------------------------------------------------------------------

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": PROMPT}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}

REFUSED = [
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 100, "prompt": ["x", "y"]}, "n", "more than 128"),
    ({"echo": True, "logprobs": 1}, "echo", "a prompt has no logprobs"),
    ({"best_of": 3}, "best_of", "not supported yet"),
    ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
    ({"suffix": "x"}, "suffix", "not supported yet"),
    ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
    ({"frequency_penalty": -3}, "frequency_penalty", "greater than or equal to -2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "less than or equal to 100"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token id"),
    ({"logit_bias": {"1000": 1}}, "logit_bias", "token 1000, but the vocabulary ends at 999"),
    ({"stop_token_ids": [1000]}, "stop_token_ids", "the vocabulary ends at 999"),
    ({"response_format": {"type": "xml"}}, "response_format", "expected tags"),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", "unclosed group"),
    ({"structured_outputs": {}}, "structured_outputs", "give one of"),
    ({"temprature": 1}, "temprature", "Unknown field `temprature`"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 3}, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, "temperature", "valid number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
    ({"max_tokens": 5000}, "max_tokens", "context is 4096 tokens"),
    ({"max_tokens": 2, "min_tokens": 3}, "min_tokens", "at most 2"),
    ({"seed": 1 << 64}, "seed", "valid integer|less than"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"stop": [""]}, "stop", "at least 1 character"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only possible with `stream`"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": ["one", ""]}, "prompt", "empty"),
    ({"prompt": [5, 1000]}, "prompt", "token 1000, but the vocabulary ends at 999"),
    ({"prompt": [-1]}, "prompt", "greater than or equal to 0"),
    ({"prompt": "x" * 4096}, "prompt", "context is 4096 tokens"),
    ({"prompt": None}, "prompt", "valid"),
    ({"model": 5}, "model", "valid string"),
]
REFUSED_CHAT = [
    ({"tools": [{"type": "function"}]}, "tools", "not supported yet"),
    ({"logprobs": 1}, "logprobs", "valid boolean"),
    ({"top_logprobs": 2}, "top_logprobs", "only possible with `logprobs`"),
    ({"modalities": ["audio"]}, "modalities", "not supported yet"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages", r"messages\[0\].role"),
    ({"messages": [{"role": "user"}]}, "messages", "needs `content`"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages",
        r"messages\[0\]",
    ),
    ({"best_of": 2}, "best_of", "Unknown field `best_of`"),
    ({"max_completion_tokens": 5000}, "max_tokens", "context is 4096 tokens"),
]


@pytest.mark.parametrize(
    ("path", "body", "cases"),
    [("/v1/completions", COMPLETION, REFUSED), ("/v1/chat/completions", CHAT, REFUSED_CHAT)],
)
def test_bad_values_are_refused_by_name(
    kit: Any, path: str, body: dict[str, Any], cases: list[tuple[dict[str, Any], str, str]]
) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> list[httpx.Response]:
        answers = [await client.post(path, json={**body, **fields}) for fields, _, _ in cases]
        assert not cluster.workers["workers-0"].calls
        return answers

    for answer, (_, param, says) in zip(serve(kit, use), cases, strict=True):
        error = answer.json()["error"]
        assert answer.status_code == 400, answer.text
        assert error["param"] == param, answer.text
        assert re.search(says, error["message"]), answer.text
        assert error["type"] == "invalid_request_error"


def test_harmless_defaults_are_accepted(kit: Any) -> None:
    accepted: list[dict[str, Any]] = [
        {"n": 1, "best_of": 1, "logprobs": None, "echo": False, "suffix": None},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": None, "user": "me"},
        {"temperature": 0, "top_p": 1, "top_k": -1, "seed": 5, "stop": None, "stream": False},
        {"temperature": 1, "stop": "x", "min_tokens": 2, "ignore_eos": True},
    ]

    async def use(client: Client, cluster: Any, router: Any) -> list[int]:
        answers = [await client.post("/v1/completions", json=COMPLETION | f) for f in accepted]
        return [answer.status_code for answer in answers]

    assert serve(kit, use) == [200] * len(accepted)


def test_sampling_reaches_the_worker(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "stop": ["a", "b"]}
        fields |= {"presence_penalty": 0.5, "frequency_penalty": -0.5, "min_p": 0.1}
        fields |= {"logit_bias": {"5": 1.5}, "repetition_penalty": 1.1, "stop_token_ids": [9]}
        await client.post("/v1/completions", json=COMPLETION | fields)
        return cluster.workers["workers-0"].calls[0].steps[0].sampling

    sampling = serve(kit, use)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.seed, sampling.stop, sampling.max_tokens) == (3, ("a", "b"), 16)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.min_p) == (1.1, 0.1)
    assert (sampling.logit_bias, sampling.stop_token_ids) == ({5: 1.5}, (9,))


def test_what_is_not_json_is_refused(kit: Any) -> None:
    contents = [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"model": NaN', b"[" * 100_000]
    contents += [b'{"model": "tiny", "prompt": "\\ud800"}', b'{"model": "tiny"} trailing']

    async def use(client: Client, cluster: Any, router: Any) -> list[httpx.Response]:
        return [await client.post("/v1/completions", content=content) for content in contents]

    for content, answer in zip(contents, serve(kit, use), strict=True):
        assert answer.status_code == 400, content
        assert answer.json()["error"]["message"]


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

    assert serve(kit, use, max_body_bytes=10_000) == [
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
    full, poison, after = serve(kit, use, strategy=strategy)
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
    answer, ready = serve(kit, use, strategy=strategy)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert ready.status_code == 503


def test_an_error_after_the_first_token_ends_the_stream_with_its_event(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> str:
        cluster.workers["workers-0"].script = kit.Script(lose_after=2, times=9)
        body = COMPLETION | {"stream": True}
        return (await client.post("/v1/completions", json=body)).text

    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.2, 0))
    events = serve(kit, use, strategy=strategy).strip().split("\n\n")
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

    assert serve(kit, use) < 1.0


def test_a_client_that_leaves_while_waiting_for_a_route_leaves_nothing(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> None:
        cluster.workers.clear()
        await router.fleet.refresh()
        _, writer = await post_raw(client, COMPLETION)
        await kit.until(lambda: len(router.plans) == 1)
        writer.close()
        (record,) = router.plans
        await kit.until(lambda: record.state == "cancelled")

    serve(kit, use)


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

    stalled, in_the_end = serve(kit, use, client=InProcessClient(generate))
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

    answer, plan, route, listed = serve(kit, use)
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

    assert len(serve(kit, use)) == 44


def test_a_split_plan_as_a_timeline(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> str:
        answer = await client.post("/v1/completions", json=COMPLETION)
        plan_id = answer.headers["x-mserve-plan"].partition(";")[0]
        return render_timeline((await client.get(f"/v1/plans/{plan_id}")).json())

    strategy = kit.Strategy(kit.split, kit.PREFILL_DECODE)
    text = serve(kit, use, cluster=kit.cluster("prefill-0", "decode-0"), strategy=strategy)
    lines = text.splitlines()
    assert lines[0].startswith("plan ")
    assert "19 prompt tokens" in lines[0]
    assert lines[1] == "strategy fake, route only (d = decode-0)"
    lanes = [line.split() for line in lines[2:]]
    assert [lane[:3] for lane in lanes] == [
        ["decode-0", "s1", "receive"],
        ["s3", "generate", lanes[1][2]],
        ["prefill-0", "s2", "send"],
    ]
    assert "17.6 KiB" in lines[4]
    assert "█" in lines[4]


def test_metrics_and_health(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        await client.post("/v1/completions", json=COMPLETION)
        await client.post("/v1/completions", json=COMPLETION | {"n": 0})
        await kit.until(lambda: kit.idle(router))
        health, ready = await client.get("/health"), await client.get("/ready")
        return (await client.get("/metrics")).text, health.json(), ready

    text, health, ready = serve(kit, use)
    assert 'mserve_router_requests_total{route="only",state="done"} 1' in text
    assert "mserve_router_output_tokens_total 16" in text
    assert 'mserve_router_errors_total{status="400"} 1' in text
    assert 'mserve_router_request_seconds_bucket{le="+Inf"} 1' in text
    assert 'mserve_router_workers{pool="workers"} 1' in text
    assert 'mserve_router_reserved_seconds{worker="workers-0"} 0' in text
    assert health["strategy"] == "fake"
    assert (ready.status_code, ready.json()["pools"]) == (200, {"workers": ["workers-0"]})
