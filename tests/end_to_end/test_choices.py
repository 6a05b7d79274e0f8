"""logprobs, n, several prompts and echo over real workers, on one worker and split over two."""

import json
import math
from typing import Any

import pytest

PROMPT = "The old harbour was quiet that evening, and "
PLAIN = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0}


def ask(server: Any, body: dict[str, Any], path: str = "/v1/completions") -> Any:
    status, answer, _ = server.ask(path, {"model": "mserve-tiny", **body})
    assert status == 200, answer
    return answer


def events(server: Any, body: dict[str, Any], path: str = "/v1/completions") -> list[Any]:
    """The JSON of every event of a stream."""
    status, text, _ = server.ask(path, {"model": "mserve-tiny", "stream": True, **body})
    assert status == 200, text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module", params=["data_parallel", "prefill_decode"])
def server(request: Any, serve: Any) -> Any:
    with serve(request.param) as running:
        yield running


def test_logprobs_of_a_completion(server: Any) -> None:
    choice = ask(server, PLAIN | {"logprobs": 3})["choices"][0]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 6
    for token, own, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 3
        assert max(top.values()) == own == top[token], "a greedy token is the most probable"
    assert found["text_offset"] == [sum(map(len, found["tokens"][:count])) for count in range(6)]


def test_logprobs_of_a_chat_answer(server: Any) -> None:
    body = {
        "messages": [{"role": "user", "content": "Tell me of größe."}],
        "max_tokens": 8,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 20,
    }
    choice = ask(server, body, "/v1/chat/completions")["choices"][0]
    content = choice["logprobs"]["content"]
    text = b"".join(bytes(entry["bytes"]) for entry in content)
    assert text.decode(errors="replace") == choice["message"]["content"]
    for entry in content:
        assert sum(math.exp(each["logprob"]) for each in entry["top_logprobs"]) <= 1.0001
        assert len(entry["top_logprobs"]) == 20
    chunks = [e["choices"][0] for e in events(server, body, "/v1/chat/completions")]
    streamed = [entry for chunk in chunks for entry in chunk["logprobs"]["content"]]
    assert [e["token"] for e in streamed] == [e["token"] for e in content]
    for one, other in zip(streamed, content, strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def test_penalties_do_not_change_logprobs(server: Any) -> None:
    body = PLAIN | {"logprobs": 1, "max_tokens": 1}
    free = ask(server, body)["choices"][0]["logprobs"]
    (token,) = free["tokens"]
    banned = ask(server, body | {"temperature": 0.5, "seed": 1})["choices"][0]["logprobs"]
    assert banned["top_logprobs"][0][token] == pytest.approx(free["token_logprobs"][0], abs=1e-4)


def test_choices_of_one_prompt(server: Any) -> None:
    body = PLAIN | {"n": 3, "temperature": 1.0, "seed": 7}
    whole = ask(server, body)
    texts = [choice["text"] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = ask(server, body | {"n": 1})
    assert alone["choices"][0]["text"] == texts[0]
    assert whole["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == 18
    streamed = ["", "", ""]
    for event in events(server, body | {"stream_options": {"include_usage": True}}):
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts


def test_several_prompts(server: Any) -> None:
    prompts = ["One day", "She opened the", "In the morning"]
    whole = ask(server, PLAIN | {"prompt": prompts, "n": 2})
    alone = [ask(server, PLAIN | {"prompt": prompt})["choices"][0]["text"] for prompt in prompts]
    assert [c["text"] for c in whole["choices"]] == [text for text in alone for _ in range(2)]


def test_echo(server: Any) -> None:
    text = ask(server, PLAIN)["choices"][0]["text"]
    assert ask(server, PLAIN | {"echo": True})["choices"][0]["text"] == PROMPT + text
    streamed = events(server, PLAIN | {"echo": True})
    assert "".join(event["choices"][0]["text"] for event in streamed) == PROMPT + text
