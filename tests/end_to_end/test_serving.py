"""What a user does with a running cluster: the OpenAI client, plans, metrics, leaving early."""

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

LONG = "The little girl opened the door and went into the garden. " * 50
MODEL = "mserve-tiny"


@pytest.fixture(scope="module")
def server(serve: Any) -> Iterator[Any]:
    with serve("balanced", "--kv-memory", "64MiB") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_completions_with_the_openai_client(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=LONG, max_tokens=20, temperature=0.7, seed=1
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 20
    assert answer.usage.prompt_tokens > 600


def test_the_same_seed_gives_the_same_text_streamed_or_not(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.completions.create(
            model=MODEL, prompt=LONG + "She", max_tokens=40, temperature=0.9, seed=11, **more
        )

    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_repeated_prompt_is_reported_as_cached(client: openai.OpenAI) -> None:
    def ask() -> Any:
        usage = client.completions.create(
            model=MODEL, prompt="Once more: " + LONG, max_tokens=2, temperature=0
        ).usage
        assert usage is not None
        return usage

    first = ask()
    time.sleep(0.3)  # the index follows the caches
    second = ask()
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens > 0.8 * second.prompt_tokens


def test_chat(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Tell me about the cat."}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=24, temperature=0.5, seed=2
    )
    assert answer.choices[0].message.role == "assistant"
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=24, temperature=0.5, seed=2, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content


def test_stop_strings_min_tokens_and_ignore_eos(client: openai.OpenAI) -> None:
    free = client.completions.create(model=MODEL, prompt=LONG, max_tokens=60, temperature=0)
    stop = free.choices[0].text.split()[3]
    cut = client.completions.create(
        model=MODEL, prompt=LONG, max_tokens=60, temperature=0, stop=[stop]
    )
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == free.choices[0].text.partition(stop)[0]
    full = client.completions.create(
        model=MODEL,
        prompt=LONG,
        max_tokens=100,
        extra_body={"ignore_eos": True, "min_tokens": 50, "top_k": 40},
    )
    assert full.usage is not None
    assert full.usage.completion_tokens == 100


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_the_executed_plan_can_be_read(server: Any) -> None:
    body = {"model": MODEL, "prompt": "A plan. " + LONG, "max_tokens": 8, "temperature": 0}
    status, _, headers = server.ask("/v1/completions", body)
    assert status == 200
    assert headers["x-mserve-plan"].endswith("route=split; version=1")
    assert headers["x-request-id"]
    record = server.plan_of(headers)
    (attempt,) = record["attempts"]
    steps = {step["op"]: step for step in attempt["steps"]}
    num_sent = steps["remote_send"]["sent"]
    assert num_sent == int(0.9 * record["prompt_tokens"] + 1e-6)
    assert steps["prep_recv"]["received"] == num_sent
    assert steps["start_generate"]["computed"] == record["prompt_tokens"] - num_sent
    assert steps["remote_send"]["sent_bytes"] == num_sent * 4 * 2 * 2 * 64 * 4
    assert all(step["end_ms"] >= step["start_ms"] >= 0 for step in attempt["steps"])


def test_health_ready_and_metrics(server: Any) -> None:
    assert server.ask("/health")[0] == 200
    assert server.ask("/ready")[0] == 200
    status, text, _ = server.ask("/metrics")
    assert status == 200
    assert re.search(r"^mserve_\w+", text, re.MULTILINE)


def test_a_client_that_leaves_frees_everything(server: Any) -> None:
    body = {"model": MODEL, "prompt": "Gone. " + LONG, "max_tokens": 3000, "stream": True}
    body["ignore_eos"] = True
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)) as line:
        line.request("POST", "/v1/completions", json.dumps(body))
        response = line.getresponse()
        plan_id = response.headers["x-mserve-plan"].partition(";")[0]
        assert response.read(50)
    for _ in range(100):
        status, record, _ = server.ask(f"/v1/plans/{plan_id}")
        assert status == 200
        if record["state"] == "cancelled":
            return
        time.sleep(0.05)
    raise AssertionError("the plan goes on without its client")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "gpt-4", "prompt": "x"}, 404, "gpt-4"),
        ({"model": MODEL, "prompt": "x", "temperature": -1}, 400, "temperature"),
        ({"model": MODEL, "prompt": "x", "max_tokens": 100_000}, 400, "max_tokens"),
        ({"model": MODEL, "prompt": [5] * 5000}, 400, "4096"),
        ({"model": MODEL, "prompt": []}, 400, "prompt"),
        ({"model": MODEL, "prompt": [99_999]}, 400, "99999"),
        ({"model": MODEL}, 400, "prompt"),
        ({"model": MODEL, "prompt": "x", "tempreature": 1}, 400, "tempreature"),
        ({"model": MODEL, "prompt": "x", "n": 0}, 400, "n"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    server: Any, body: dict[str, Any], status: int, says: str
) -> None:
    got, answer, _ = server.ask("/v1/completions", body)
    assert got == status, answer
    assert says in answer["error"]["message"]
    assert answer["error"]["type"]


def test_invalid_json_and_unknown_paths(server: Any) -> None:
    status, answer, _ = server.ask("/v1/completions", raw=b'{"model": ')
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert server.ask("/v1/embeddings", {})[0] == 404
    assert server.ask("/v1/plans/unknown")[0] == 404
