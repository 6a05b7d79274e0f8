"""Greedy answers equal those of Hugging Face's transformers, through every shipped strategy."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

STRATEGIES = (
    "balanced",
    "cache_aware",
    "data_parallel",
    "least_loaded",
    "migration",
    "prefill_decode",
)
LENGTHS = (1, 2, 15, 16, 17, 1000)
NUM_TOKENS = 64
TWO_WORKERS = {"data_parallel", "least_loaded", "migration"}


def prompts(seed: int, lengths: tuple[int, ...]) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(10, 2000) for _ in range(length)) for length in lengths]


def answer(server: Any, prompt: tuple[int, ...]) -> tuple[str, Any]:
    """The text of a greedy completion, and the whole answer."""
    body = {
        "model": "served",
        "prompt": list(prompt),
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    status, answered, headers = server.ask("/v1/completions", body)
    assert status == 200, answered
    assert answered["usage"]["completion_tokens"] == NUM_TOKENS
    return answered["choices"][0]["text"], (answered, headers)


@pytest.mark.parametrize("model", ["tiny", "random_llama"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_reference(
    serve: Any, request: pytest.FixtureRequest, strategy: str, model: str
) -> None:
    from mserve.runtime.tokenizer import Tokenizer

    reference = request.getfixturevalue(model)
    decode = Tokenizer.load(reference.folder).decode
    more = ("--cluster", "workers=2") if strategy in TWO_WORKERS else ()
    with serve(
        strategy,
        *("--model", str(reference.folder), "--served-model-name", "served"),
        *("--kv-memory", "64MiB", *more),
    ) as server:
        alone = prompts(1, LENGTHS)
        for prompt in alone * 2:  # cold, then with a warm cache
            expected = decode(reference.answer(prompt, NUM_TOKENS))
            assert answer(server, prompt)[0] == expected, f"{len(prompt)} tokens"
        # Sixteen at once, some sharing prefixes with each other and with what is cached.
        many = [*prompts(2, (1, 17, 40, 100, 300, 700)), *((*p, 9, 8, 7) for p in alone)]
        many += [(*many[4], 5), (*many[5], 6), many[4][:200], alone[-1][:500]]
        assert len(many) == 16
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda prompt: answer(server, prompt)[0], many))
        for prompt, text in zip(many, answers, strict=True):
            assert text == decode(reference.answer(prompt, NUM_TOKENS)), f"{len(prompt)} tokens"
