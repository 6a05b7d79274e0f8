"""Answers that keep to a grammar whatever the logits say, also after a resume."""

from array import array
from typing import Any

import numpy as np
import pytest
import torch

from mserve.runtime import grammar
from mserve.runtime.config import shipped_model
from mserve.runtime.engine.constraints import Constraints
from mserve.runtime.engine.sampler import Sampler
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.grammar import Vocabulary
from mserve.runtime.messages import Sampling
from mserve.runtime.tokenizer import Tokenizer

FOLDER = shipped_model()
TOKENIZER = Tokenizer.load(FOLDER)
ENDS = sorted(TOKENIZER.eos_ids)
PROMPT = [7, 8, 9]
NUMBER = grammar.grammar_of_regex("[0-9]{4,6}", "f")


def sampler() -> Sampler:
    vocabulary = Vocabulary(FOLDER, TOKENIZER.vocab_size, ENDS)
    return Sampler(ENDS, np.random.default_rng(0), Constraints(lambda: vocabulary))


def sequence(answer: list[int], answered: int = 0, key: str = "s", **options: Any) -> Sequence:
    tokens = array("i", PROMPT + answer)
    sampling = Sampling(max_tokens=99, answered=answered, **options)
    return Sequence(key, tokens, len(PROMPT) + answered, sampling=sampling)


def written(form: str, temperature: float, seed: int = 0, **options: Any) -> tuple[str, list[int]]:
    """An answer with random logits, until it ends."""
    chooser, one = sampler(), sequence([], grammar=form, temperature=temperature, **options)
    generator = torch.Generator().manual_seed(seed)
    while len(one.tokens) < 60:
        logits = torch.randn(1, TOKENIZER.vocab_size, generator=generator)
        token = chooser.sample(logits, [one])[0]
        if token in TOKENIZER.eos_ids:
            break
        one.tokens.append(token)
    answer = list(one.tokens[len(PROMPT) :])
    return TOKENIZER.decode(answer), answer


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_any_logits_give_text_of_the_form(temperature: float, seed: int) -> None:
    text, _ = written(NUMBER, temperature, seed)
    assert text.isdigit()
    assert 4 <= len(text) <= 6


def test_one_of_a_choice() -> None:
    form = grammar.grammar_of_choice(["alpha", "beta"], "f")
    assert {written(form, 1.0, seed)[0] for seed in range(12)} == {"alpha", "beta"}


def test_a_form_goes_before_a_least_number_of_tokens() -> None:
    text, _ = written(NUMBER, 0.0, min_tokens=40)
    assert len(text) <= 6


def test_a_form_goes_before_a_bias() -> None:
    (token,) = set(TOKENIZER.encode("x", special_tokens=False))
    text, _ = written(NUMBER, 0.0, logit_bias={token: 100.0})
    assert text.isdigit()


@pytest.mark.parametrize("moved", range(3))
def test_a_resumed_answer_goes_on_in_its_form(moved: int) -> None:
    """Another worker, which has seen none of it, allows the same tokens."""
    _, answer = written(NUMBER, 0.0, 3)
    moved = min(moved, len(answer))
    row = torch.randn(1, TOKENIZER.vocab_size, generator=torch.Generator().manual_seed(9))
    options: dict[str, Any] = {"grammar": NUMBER, "temperature": 0.0}
    here = sampler().sample(row.clone(), [sequence(answer, **options)])
    there = sampler().sample(row.clone(), [sequence(answer, moved, **options)])
    assert there == here


def test_rows_without_a_form_are_free() -> None:
    rows = torch.zeros(2, TOKENIZER.vocab_size)
    rows[:, 500] = 9.0
    both = [sequence([], key="a", temperature=0.0), sequence([], temperature=0.0, grammar=NUMBER)]
    free, bound = sampler().sample(rows, both)
    assert free == 500
    assert TOKENIZER.decode([bound]).isdigit()
