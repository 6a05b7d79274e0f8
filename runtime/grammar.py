"""Answers of a given form: JSON schema, regular expression, choice or grammar, by llguidance.

The one module that imports llguidance, and only when an answer of a given form is asked for. A form
travels as the text of a grammar; the router makes and checks it, the engine's sampler follows it.
Knows neither requests nor logits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mserve.runtime.errors import BadRequest, ConfigError

MAX_GRAMMAR = 1 << 18  # characters
WHITESPACE = r"[ \n\t]{0,12}"
"""Between the parts of JSON. Bounded: a weak model would go on with newlines for ever."""


def grammar_of_schema(schema: dict[str, Any], param: str) -> str:
    """JSON that satisfies a schema. Raises BadRequest naming `param`."""
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, {"whitespace_pattern": WHITESPACE})
    except ValueError as error:
        raise BadRequest(f"`{param}`: {error}.", param=param) from None
    return _checked(grammar, param)


def grammar_of_regex(regex: str, param: str) -> str:
    """Text that a regular expression matches as a whole. Raises BadRequest."""
    from llguidance import LLMatcher

    return _checked(LLMatcher.grammar_from_regex(regex), param)


def grammar_of_choice(choices: Sequence[str], param: str) -> str:
    """One of some texts. Raises BadRequest."""
    from json import dumps

    alternatives = " | ".join(dumps(choice, ensure_ascii=False) for choice in choices)
    return grammar_of_rules(f"start: {alternatives}", param)


def grammar_of_rules(rules: str, param: str) -> str:
    """Text of a grammar in llguidance's variant of Lark's notation. Raises BadRequest."""
    from llguidance import LLMatcher

    return _checked(LLMatcher.grammar_from_lark(rules), param)


def _checked(grammar: str, param: str) -> str:
    from llguidance import LLMatcher

    if len(grammar) > MAX_GRAMMAR:
        raise BadRequest(f"`{param}` is too long.", param=param)
    problem = LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        raise BadRequest(f"`{param}`: {problem}", param=param)
    return grammar


class Vocabulary:
    """A model's tokens as grammars see them."""

    def __init__(self, folder: Path, vocab_size: int, eos_ids: Sequence[int]) -> None:
        """`vocab_size` is the model's, which may exceed the tokenizer's. Raises ConfigError."""
        from llguidance import LLTokenizer

        path = str(folder / "tokenizer.json")
        try:
            # Told the ends of an answer, since it guesses them wrong.
            self._tokenizer = LLTokenizer(path, n_vocab=vocab_size, eos_token=list(eos_ids))
        except Exception as error:  # the library raises nothing more precise
            raise ConfigError(f"{path!r} cannot be used for grammars: {error}.") from error
        self.size = vocab_size

    def matcher(self, grammar: str) -> "Matcher":
        return Matcher(self._tokenizer, grammar, self.size)


class Matcher:
    """Where in a grammar one answer is."""

    def __init__(self, tokenizer: Any, grammar: str, vocab_size: int) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)
        self._vocab_size = vocab_size
        self.num_tokens = 0

    def advance(self, tokens: Sequence[int]) -> None:
        """Takes the answer's next tokens."""
        self.num_tokens += len(tokens)
        self._matcher.consume_tokens(list(tokens))

    @property
    def is_over(self) -> bool:
        """Nothing but the end may follow: the form is complete, or the answer has left it."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """[vocab]: which tokens may come next."""
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(words, bitorder="little")[: self._vocab_size].astype(np.bool_)
