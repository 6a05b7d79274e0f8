"""What is found out about a server before traffic is sent, and what is said where it does not fit."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.client import Client, Server
from mserve.runtime.traffic.model import ServedModel, Wanted, find_model
from mserve.runtime.traffic.prompts import Vocabulary

LISTED = {"data": [{"id": "tiny", "object": "model", "max_model_len": 4096}]}


def served(
    http: Any,
    *,
    models: Any = LISTED,
    size: int = 1 << 20,
    knows_ignore_eos: bool = True,
    status: int = 200,
) -> Callable[[Any], bytes]:
    """A server with a vocabulary of some size."""

    def answer(asked: Any) -> bytes:
        if asked.line.startswith("GET"):
            return bytes(http.whole(models, status))
        is_known = knows_ignore_eos or "ignore_eos" not in asked.body
        if is_known and max(asked.body["prompt"]) < size:
            return bytes(http.whole({"choices": []}))
        return bytes(http.whole({"error": {"message": "no such thing"}}, 400))

    return answer


def find(http: Any, answer: Any, wanted: Wanted | None = None) -> ServedModel:
    async def main() -> ServedModel:
        async with http.server(answer) as server:
            client = Client(Server.at(server.url), time.monotonic)
            try:
                return await find_model(client, "URL", wanted or Wanted())
            finally:
                client.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("size", "vocabulary"),
    [(32_000, Vocabulary(1000, 20_000)), (2048, Vocabulary(625, 1250))],
)
def test_the_vocabulary_is_found_out(http: Any, size: int, vocabulary: Vocabulary) -> None:
    model = find(http, served(http, size=size))
    assert model == ServedModel("tiny", 4096, vocabulary, ignores_eos=True)


def test_a_server_that_refuses_ignore_eos_is_not_asked_for_it(http: Any) -> None:
    model = find(http, served(http, knows_ignore_eos=False))
    assert not model.ignores_eos
    body = json.loads(model.request(Arrival(0.0, 3, 5, (1,), 64), 0))
    assert "ignore_eos" not in body
    assert (body["max_tokens"], len(body["prompt"]), body["stream"]) == (5, 3, True)


def test_what_the_operator_says_is_not_tried(http: Any) -> None:
    wanted = Wanted("tiny", Vocabulary(5, 6), ignore_eos=False)
    model = find(http, served(http, size=0), wanted)
    assert model == ServedModel("tiny", 4096, Vocabulary(5, 6), ignores_eos=False)


@pytest.mark.parametrize(
    ("server", "name", "words"),
    [
        ({"models": {"data": [{"id": "a"}, {"id": "b"}]}}, None, "2 models; give --model, one of"),
        ({}, "tony", "did you mean 'tiny'"),
        ({"models": {"detail": "Not Found"}, "status": 404}, None, "no OpenAI-compatible server"),
        ({"models": {"error": {"message": "who?"}}, "status": 401}, None, "OPENAI_API_KEY.: who"),
        ({"size": 0}, None, "refused a completion of a prompt of token ids .* no such thing"),
        ({"size": 60}, None, "--vocab LOW..HIGH"),
    ],
)
def test_servers_that_do_not_fit(http: Any, server: Any, name: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find(http, served(http, **server), Wanted(name))


def test_a_server_at_its_limits_is_not_taken_for_one_with_a_small_vocabulary(http: Any) -> None:
    def answer(asked: Any) -> bytes:
        if asked.line.startswith("GET"):
            return bytes(http.whole(LISTED))
        return bytes(http.whole({"error": {"message": "full"}}, 429))

    with pytest.raises(ConfigError, match=r"status 429\): full"):
        find(http, answer)
