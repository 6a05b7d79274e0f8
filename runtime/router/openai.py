"""Requests of the OpenAI API: what is accepted, what is not supported yet, and what they mean.

Pydantic checks shapes and ranges here and nowhere else. Knows neither HTTP nor plans; the tokenizer
is given.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from mserve.runtime.errors import BadRequest
from mserve.runtime.messages import Sampling
from mserve.runtime.router.openai_forms import ResponseFormat, StructuredOutputs, grammar_of

MAX_STOPS = 4
MAX_BIASES = 1024
_ABSENT = (None,)

# What other servers accept and this one does not do yet: the values that ask for nothing.
_IDLE_COMMON: Mapping[str, Sequence[object]] = {
    "n": (None, 1),
    "service_tier": (None, "auto", "default"),
}
_IDLE_COMPLETION: Mapping[str, Sequence[object]] = {
    **_IDLE_COMMON,
    "best_of": (None, 1),
    "logprobs": _ABSENT,
    "echo": (None, False),
    "suffix": (None, ""),
}
_IDLE_CHAT: Mapping[str, Sequence[object]] = {
    **_IDLE_COMMON,
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": _ABSENT,
    "prediction": _ABSENT,
    "reasoning_effort": _ABSENT,
    "web_search_options": _ABSENT,
    "store": (None, False),
}


class Tokenizer(Protocol):
    """What the router needs of runtime/tokenizer.py."""

    vocab_size: int

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]: ...

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StreamOptions(_Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # there is none either way


Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class GenerateBody(_Body):
    """The fields both endpoints share."""

    idle: ClassVar[Mapping[str, Sequence[object]]] = _IDLE_COMMON

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | list[Stop] | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=64)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    priority: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_idle(cls, data: Any) -> Any:
        """Drops unsupported fields that ask for nothing; refuses those that ask for something."""
        if not isinstance(data, dict):
            return data
        for name in cls.idle.keys() & data.keys():
            if not any(data[name] == value for value in cls.idle[name]):
                raise PydanticCustomError(
                    "unsupported", "`{name}` is not supported yet.", {"name": name}
                )
        return {key: value for key, value in data.items() if key not in cls.idle}

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: Any) -> Any:
        if isinstance(stop, list) and len(stop) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop strings are possible")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _bias_of_tokens(cls, bias: Any) -> Any:
        for key in bias or ():
            if not re.fullmatch(r"\d{1,9}", key):
                raise ValueError(f"{key!r} is not a token id; the keys are token ids as strings")
        return bias

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "GenerateBody":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "unsupported",
                "`{name}` is only possible with `stream`: true.",
                {"name": "stream_options"},
            )
        return self

    @property
    def limit(self) -> int | None:
        """How many tokens the client wants at most."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def has_form(self) -> bool:
        return self.structured_outputs is not None or self.response_format is not None

    def grammar(self) -> str:
        """The form that the answer must have; "" for any text. Takes milliseconds, of complex
        schemas more. Raises BadRequest."""
        return grammar_of(self.structured_outputs or self.response_format)

    def sampling(self, max_tokens: int, grammar: str = "") -> Sampling:
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            seed=self.seed,
            stop=tuple([self.stop] if isinstance(self.stop, str) else self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos) and not grammar,
            grammar=grammar,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
        )


class CompletionBody(GenerateBody):
    """`POST /v1/completions`. One prompt: text, or token ids."""

    idle: ClassVar[Mapping[str, Sequence[object]]] = _IDLE_COMPLETION

    prompt: str | list[Token] | list[str] | list[list[Token]]

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, prompt: Any) -> Any:
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise ValueError("more than one prompt in a request is not supported yet")
            prompt = prompt[0]
        if not prompt:
            raise ValueError("the prompt is empty")
        return prompt


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None

    @model_validator(mode="after")
    def _has_content(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise ValueError("a message needs `content`")
        return self


class ChatBody(GenerateBody):
    """`POST /v1/chat/completions`. Text only."""

    idle: ClassVar[Mapping[str, Sequence[object]]] = _IDLE_CHAT

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


BodyType = TypeVar("BodyType", CompletionBody, ChatBody)


def parse_body(cls: type[BodyType], body: bytes) -> BodyType:
    """Raises BadRequest with the first thing that is wrong, naming the field."""
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        raise _bad_request(_most_telling(error.errors(include_url=False))) from None


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """The first error; of the branches of a union, the one whose type fits."""
    branches = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    return next((error for error in branches if not error["type"].endswith("_type")), errors[0])


def _bad_request(error: ErrorDetails) -> BadRequest:
    context = error.get("ctx", {})
    path = [str(part) for part in error["loc"]]
    if error["type"] == "unsupported":
        return BadRequest(error["msg"], param=str(context["name"]), code="unsupported_parameter")
    if error["type"] == "json_invalid":
        return BadRequest(f"The body is not valid JSON: {context['error']}.")
    param = path[0] if path else None
    field = _field_name(path)
    if error["type"] == "extra_forbidden":
        return BadRequest(f"Unknown field `{field}`.", param=param, code="unknown_parameter")
    if error["type"] == "missing":
        return BadRequest(f"`{field}` is missing.", param=param, code="missing_required_parameter")
    message = error["msg"].removeprefix("Value error, ")
    return BadRequest(f"`{field}`: {message}." if field else f"{message}.", param=param)


def _field_name(path: list[str]) -> str:
    """`messages[0].content`; names that pydantic gives to the branches of a union stay out."""
    name = ""
    for part in path:
        if part.isdigit():
            name += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int"):
            name += f".{part}" if name else part
    return name


def encode_completion(body: CompletionBody, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the prompt. Raises BadRequest for ids that the model does not have."""
    _check_biased(body, tokenizer)
    prompt = body.prompt
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    tokens = [token for token in prompt if isinstance(token, int)]
    _check_known("prompt", tokens, tokenizer)
    return tokens


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


def encode_chat(body: ChatBody, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the messages in the model's chat template. Raises BadRequest as above."""
    _check_biased(body, tokenizer)
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    return tokenizer.encode_chat(messages)


def choose_max_tokens(
    body: GenerateBody, num_prompt: int, max_model_len: int | None, default: int | None
) -> int:
    """How many tokens may be generated; `default` where the client does not say (None: all that
    fit). Raises BadRequest if prompt and answer do not fit into the model's context."""
    param = "messages" if isinstance(body, ChatBody) else "prompt"
    if num_prompt == 0:
        raise BadRequest("`prompt`: the prompt is empty.", param=param)
    wanted = body.limit or default
    if max_model_len is None:
        return wanted or 16  # no worker is known; the one that comes will check
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
