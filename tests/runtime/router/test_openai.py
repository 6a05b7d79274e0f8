"""Bodies of the OpenAI API: what is refused, and by which words; what is accepted, and what becomes of it."""

import re
from typing import Any

import httpx
import pytest

Client = httpx.AsyncClient
COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "The quick brown fox"}
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

    for answer, (_, param, says) in zip(kit.serve(use), cases, strict=True):
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

    assert kit.serve(use) == [200] * len(accepted)


def test_sampling_reaches_the_worker(kit: Any) -> None:
    async def use(client: Client, cluster: Any, router: Any) -> Any:
        fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "stop": ["a", "b"]}
        fields |= {"presence_penalty": 0.5, "frequency_penalty": -0.5, "min_p": 0.1}
        fields |= {"logit_bias": {"5": 1.5}, "repetition_penalty": 1.1, "stop_token_ids": [9]}
        await client.post("/v1/completions", json=COMPLETION | fields)
        return cluster.workers["workers-0"].calls[0].steps[0].sampling

    sampling = kit.serve(use)
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

    for content, answer in zip(contents, kit.serve(use), strict=True):
        assert answer.status_code == 400, content
        assert answer.json()["error"]["message"]
