"""Greedy answers equal those of Hugging Face's transformers, through every shipped strategy."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

STRATEGIES = (
    "balanced",
    "cache_aware",
    "data_parallel",
    "deflect",
    "handoff",
    "least_loaded",
    "migration",
    "pipeline_prefill",
    "preble",
    "prefill_decode",
)
LENGTHS = (1, 2, 15, 16, 17, 1000)
NUM_TOKENS = 64
TWO_WORKERS = {"data_parallel", "handoff", "least_loaded", "migration", "preble"}


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


@pytest.mark.parametrize(
    ("strategy", "model"),
    [(strategy, "random_llama") for strategy in STRATEGIES]
    + [(strategy, "tiny") for strategy in ("balanced", "handoff", "migration")],
)
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


EVERYTHING = """
strategy everything "split in three, handed over after 20 tokens, and copied"
pool first
pool second
let a = argmin(load(w) for w in first)
let b = argmin(load(w) for w in second)
route all {
  compute prompt[:40%] on a
  compute prompt[40%:80%] on b
  generate 20 on a
  generate on b
}
"""

COPYING = """
strategy copying "the answer's KV is copied to another worker"
pool first
pool second
let here  = argmin(load(w) for w in first)
let there = argmin(load(w) for w in second)
route all {
  generate on here
  replicate prompt to there
}
"""


def test_parts_on_two_workers_and_a_handoff(serve: Any, tiny: Any, tmp_path: Any) -> None:
    from mserve.runtime.tokenizer import Tokenizer

    decode = Tokenizer.load(tiny.folder).decode
    path = tmp_path / "everything.mserve"
    path.write_text(EVERYTHING)
    with serve(str(path), "--served-model-name", "served") as server:
        for prompt in prompts(5, (1, 3, 17, 300)):
            text, (_, headers) = answer(server, prompt)
            assert text == decode(tiny.answer(prompt, NUM_TOKENS)), f"{len(prompt)} tokens"
        steps = server.plan_of(headers)["attempts"][0]["steps"]
        generated = [s["generated"] for s in steps if s["op"] == "start_generate"]
        assert generated == [20, NUM_TOKENS - 20]


def test_a_copy_is_found_by_later_requests(serve: Any, tiny: Any, tmp_path: Any) -> None:
    from mserve.runtime.tokenizer import Tokenizer

    decode = Tokenizer.load(tiny.folder).decode
    path = tmp_path / "copying.mserve"
    path.write_text(COPYING)
    (prompt,) = prompts(6, (200,))
    with serve(str(path), "--served-model-name", "served") as server:
        for num_copied in (0, 192):  # the whole blocks of what the first copy brought
            text, (_, headers) = answer(server, prompt)
            assert text == decode(tiny.answer(prompt, NUM_TOKENS))
            received = copy_of(server, headers)
            assert (received["state"], received["matched"]) == ("done", num_copied)


def copy_of(server: Any, headers: Any) -> Any:
    """The receiving step of a copy, once the copy has ended; it goes on after the answer."""
    for _ in range(100):
        steps = server.plan_of(headers)["attempts"][0]["steps"]
        if all(step["state"] == "done" for step in steps):
            break
        time.sleep(0.05)
    (received,) = [step for step in steps if step["op"] == "prep_recv"]
    return received
