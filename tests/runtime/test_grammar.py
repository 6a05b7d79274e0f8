"""Grammars as text, and what they allow token by token, with the tokenizer of the small model."""

import json
import re
from pathlib import Path

import pytest

from mserve.runtime import grammar
from mserve.runtime.config import shipped_model
from mserve.runtime.errors import BadRequest, ConfigError
from mserve.runtime.grammar import Vocabulary
from mserve.runtime.tokenizer import Tokenizer

FOLDER = shipped_model()
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "name": {"type": "string"}},
    "required": ["age", "name"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(FOLDER)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(FOLDER, tokenizer.vocab_size + 3, sorted(tokenizer.eos_ids))


def accepts(vocabulary: Vocabulary, tokenizer: Tokenizer, text: str, form: str) -> bool:
    """Whether `text` can be written token by token and then ended."""
    matcher = vocabulary.matcher(form)
    for token in tokenizer.encode(text, special_tokens=False):
        if matcher.is_over or not matcher.allowed()[token]:
            return False
        matcher.advance([token])
    return bool(matcher.allowed()[min(tokenizer.eos_ids)])


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (
            grammar.grammar_of_schema(SCHEMA, "f"),
            ['{"age": 5, "name": "Ann"}', '{"age":5,"name":""}', '{\n  "age": 5, "name": "x"}'],
            ['{"age": "5", "name": "Ann"}', '{"age": 5}', "{}", "age", '{"age":' + "\n" * 30],
        ),
        (grammar.grammar_of_regex("[0-9]{3}-[a-f]+", "f"), ["123-ab"], ["123", "12-ab", "123-xy"]),
        (grammar.grammar_of_choice(["yes", 'no "way"', "über"], "f"), ["yes", "über"], ["n", "no"]),
        (grammar.grammar_of_rules('start: "a" | "b" start', "f"), ["a", "bba"], ["b", "ab"]),
    ],
)
def test_only_text_of_the_form_can_be_written(
    vocabulary: Vocabulary, tokenizer: Tokenizer, form: str, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not accepts(vocabulary, tokenizer, text, form)] == []
    assert [text for text in bad if accepts(vocabulary, tokenizer, text, form)] == []


def test_a_matcher_is_over_when_its_text_is_complete(
    vocabulary: Vocabulary, tokenizer: Tokenizer
) -> None:
    matcher = vocabulary.matcher(grammar.grammar_of_choice(["yes"], "f"))
    assert not matcher.is_over
    matcher.advance(tokenizer.encode("yes", special_tokens=False))
    allowed = matcher.allowed()
    assert matcher.is_over or set(allowed.nonzero()[0]) <= tokenizer.eos_ids


def test_a_mask_is_as_wide_as_the_model(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    allowed = vocabulary.matcher(grammar.grammar_of_regex(".*", "f")).allowed()
    assert allowed.shape == (tokenizer.vocab_size + 3,)
    assert allowed[: tokenizer.vocab_size].any()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: grammar.grammar_of_schema({"type": "nonsense"}, "response_format"), "nonsense"),
        (lambda: grammar.grammar_of_regex("(a", "structured_outputs"), "unclosed group"),
        (lambda: grammar.grammar_of_rules("begin: 5", "structured_outputs"), "structured_outputs"),
        (lambda: grammar.grammar_of_regex("a" * (1 << 19), "structured_outputs"), "too long"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(BadRequest, match=re.escape(says)) as refused:
        make()
    assert refused.value.param in ("response_format", "structured_outputs")


def test_a_folder_without_a_usable_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": "none"}))
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Vocabulary(tmp_path, 10, [0])
