"""logprobs, n, several prompts and echo over real workers, on one worker and split over two."""

import math
from typing import Any

import pytest

SHORT = {"max_tokens": 6}


@pytest.fixture(scope="module", params=["data_parallel", "prefill_decode"])
def server(request: Any, serve: Any) -> Any:
    with serve(request.param) as running:
        yield running


def test_logprobs_of_a_completion(completions: Any) -> None:
    choice = completions.ask(SHORT | {"logprobs": 3})["choices"][0]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 6
    for token, own, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 3
        assert max(top.values()) == own == top[token], "a greedy token is the most probable"
    assert found["text_offset"] == [sum(map(len, found["tokens"][:count])) for count in range(6)]


def test_logprobs_of_a_chat_answer(chat: Any) -> None:
    body = {
        "messages": [{"role": "user", "content": "Tell me of größe."}],
        "max_tokens": 8,
        "temperature": 1,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 20,
    }
    choice = chat.ask(body)["choices"][0]
    content = choice["logprobs"]["content"]
    text = b"".join(bytes(entry["bytes"]) for entry in content)
    assert text.decode(errors="replace") == choice["message"]["content"]
    for entry in content:
        assert sum(math.exp(each["logprob"]) for each in entry["top_logprobs"]) <= 1.0001
        assert len(entry["top_logprobs"]) == 20
    chunks = [e["choices"][0] for e in chat.events(body)]
    streamed = [entry for chunk in chunks for entry in chunk["logprobs"]["content"]]
    assert [e["token"] for e in streamed] == [e["token"] for e in content]
    for one, other in zip(streamed, content, strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def test_penalties_do_not_change_logprobs(completions: Any) -> None:
    body = SHORT | {"logprobs": 1, "max_tokens": 1}
    free = completions.ask(body)["choices"][0]["logprobs"]
    (token,) = free["tokens"]
    banned = completions.ask(body | {"temperature": 0.5, "seed": 1})["choices"][0]["logprobs"]
    assert banned["top_logprobs"][0][token] == pytest.approx(free["token_logprobs"][0], abs=1e-4)


def test_choices_of_one_prompt(completions: Any) -> None:
    body = SHORT | {"n": 3, "temperature": 1.0, "seed": 7}
    whole = completions.ask(body)
    texts = [choice["text"] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = completions.ask(body | {"n": 1})
    assert alone["choices"][0]["text"] == texts[0]
    assert whole["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == 18
    streamed = ["", "", ""]
    for event in completions.events(body | {"stream_options": {"include_usage": True}}):
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts


def test_several_prompts(completions: Any) -> None:
    prompts = ["One day", "She opened the", "In the morning"]
    whole = completions.ask(SHORT | {"prompt": prompts, "n": 2})
    alone = [
        completions.ask(SHORT | {"prompt": prompt})["choices"][0]["text"] for prompt in prompts
    ]
    assert [c["text"] for c in whole["choices"]] == [text for text in alone for _ in range(2)]


def test_echo(completions: Any) -> None:
    text = completions.ask(SHORT)["choices"][0]["text"]
    assert completions.ask(SHORT | {"echo": True})["choices"][0]["text"] == completions.TEXT + text
    streamed = completions.events(SHORT | {"echo": True})
    assert "".join(event["choices"][0]["text"] for event in streamed) == completions.TEXT + text
