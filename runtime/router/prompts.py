"""From a request's body to token ids: its prompts, what each answer begins with and how long it may be.

Knows neither HTTP nor plans; the tokenizer is given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mserve.runtime.errors import BadRequest, Unavailable
from mserve.runtime.router.openai import ChatBody, CompletionBody, GenerateBody


class Tokenizer(Protocol):
    """What the router needs of runtime/tokenizer.py."""

    vocab_size: int

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]: ...

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of every prompt, and what every choice begins with."""

    tokens: list[list[int]]
    echoes: list[str]


def read_prompts(body: GenerateBody, tokenizer: Tokenizer) -> Prompts:
    """Messages are one prompt, in the model's chat template. Raises BadRequest for ids that the
    model does not have."""
    return Prompts(_encode_prompts(body, tokenizer), _echoes(body, tokenizer))


def _encode_prompts(body: GenerateBody, tokenizer: Tokenizer) -> list[list[int]]:
    _check_biased(body, tokenizer)
    if isinstance(body, ChatBody):
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        return [tokenizer.encode_chat(messages)]
    assert isinstance(body, CompletionBody), "there are two kinds of bodies"
    return [_encode_prompt(prompt, tokenizer) for prompt in body.prompts]


def _encode_prompt(prompt: str | list[int], tokenizer: Tokenizer) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    _check_known("prompt", prompt, tokenizer)
    return prompt


def num_characters(body: GenerateBody) -> int:
    """How much text there is to encode, or ids to check and decode."""
    if isinstance(body, ChatBody):
        return sum(message.num_characters for message in body.messages)
    assert isinstance(body, CompletionBody), "there are two kinds of bodies"
    return sum(len(prompt) for prompt in body.prompts)


def _echoes(body: GenerateBody, tokenizer: Tokenizer) -> list[str]:
    """A choice begins with its prompt, if that was asked for."""
    if not isinstance(body, CompletionBody):
        return [""] * body.num_choices
    prompts: list[str | list[int]] = body.prompts if body.echo else [""] * len(body.prompts)
    texts = [each if isinstance(each, str) else tokenizer.decode(each) for each in prompts]
    return [text for text in texts for _ in range(body.num_choices)]


def _check_biased(body: GenerateBody, tokenizer: Tokenizer) -> None:
    _check_known("logit_bias", map(int, body.logit_bias or ()), tokenizer)
    _check_known("stop_token_ids", body.stop_token_ids or (), tokenizer)


def _check_known(param: str, tokens: Iterable[int], tokenizer: Tokenizer) -> None:
    highest = max(tokens, default=0)
    if highest >= tokenizer.vocab_size:
        raise BadRequest(
            f"`{param}` has token {highest}, but the vocabulary ends at {tokenizer.vocab_size - 1}.",
            param=param,
        )


def choose_max_tokens(
    body: GenerateBody, num_prompt: int, max_model_len: int | None, default: int | None
) -> int:
    """How many tokens may be generated; `default` where the client does not say (None: all that
    fit). Raises BadRequest if prompt and answer do not fit into the model's context."""
    param = "messages" if isinstance(body, ChatBody) else "prompt"
    if num_prompt == 0:
        raise BadRequest("`prompt`: the prompt is empty.", param=param)
    wanted = body.limit or default
    if max_model_len is None and wanted is None:
        raise Unavailable(
            "No worker has come up yet, so how long an answer may be is not known; set `max_tokens`.",
            retry_after_s=1.0,
        )
    if max_model_len is None:
        assert wanted is not None, "checked above"
        return wanted  # the worker that comes will check
    room = max_model_len - num_prompt
    if room < 1 or (body.limit is not None and body.limit > room):
        asked = "" if body.limit is None else f", and `max_tokens` asks for {body.limit} more"
        raise BadRequest(
            f"This model's context is {max_model_len} tokens, but the request has {num_prompt} "
            f"tokens of prompt{asked}.",
            param=param if room < 1 else "max_tokens",
            code="context_length_exceeded",
        )
    chosen = min(room, wanted) if wanted else room
    if (body.min_tokens or 0) > chosen:
        raise BadRequest(
            f"`min_tokens` is {body.min_tokens}, but at most {chosen} tokens may be generated.",
            param="min_tokens",
        )
    return chosen
