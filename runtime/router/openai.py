"""Requests of the OpenAI API: what is accepted, what is not supported yet, and what they mean.

Pydantic checks shapes and ranges here and nowhere else. Knows neither HTTP, tokens nor plans.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

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
from mserve.runtime.router import unsupported
from mserve.runtime.router.openai_forms import (
    ResponseFormat,
    StructuredOutputs,
    TextFormat,
    grammar_of,
)

MAX_STOPS = 4
MAX_BIASES = 1024
MAX_CHOICES = 128  # of one request, over all its prompts
MAX_LOGPROBS = 20


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    idle: ClassVar[unsupported.IdleValues] = {}

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


class StreamOptions(_Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # there is none either way


Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class GenerateBody(_Body):
    """The fields both endpoints share."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
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
    cache_salt: Annotated[str, StringConstraints(max_length=256)] | None = None
    metadata: dict[str, str] | None = None

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

    @model_validator(mode="after")
    def _one_form(self) -> "GenerateBody":
        if self.structured_outputs is not None and _is_form(self.response_format):
            raise PydanticCustomError(
                "unsupported",
                "`{name}` is not possible together with `response_format`.",
                {"name": "structured_outputs"},
            )
        if self.ignore_eos and self.has_form:
            raise PydanticCustomError(
                "unsupported",
                "`{name}` is not possible together with a form, whose end is the answer's.",
                {"name": "ignore_eos"},
            )
        return self

    @property
    def num_choices(self) -> int:
        """To each prompt."""
        return self.n or 1

    @property
    def num_answers(self) -> int:
        """To all prompts together."""
        return self.num_choices

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to each token are wanted with its log probability; None: neither."""
        return None

    @property
    def limit(self) -> int | None:
        """How many tokens the client wants at most."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def has_form(self) -> bool:
        return self.structured_outputs is not None or _is_form(self.response_format)

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
            ignore_eos=bool(self.ignore_eos),
            grammar=grammar,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            logprobs=self.num_logprobs,
        )


def _is_form(wanted: ResponseFormat | None) -> bool:
    return wanted is not None and not isinstance(wanted, TextFormat)


class CompletionBody(GenerateBody):
    """`POST /v1/completions`. A prompt is text or token ids."""

    idle: ClassVar[unsupported.IdleValues] = unsupported.OF_COMPLETIONS

    prompt: str | list[Token] | list[str] | list[list[Token]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _all_prompts(self) -> "CompletionBody":
        if not all(self.prompts):
            raise PydanticCustomError("empty", "`prompt`: the prompt is empty.", {"name": "prompt"})
        if len(self.prompts) * self.num_choices > MAX_CHOICES:
            raise PydanticCustomError(
                "too_many",
                "`n`: prompts and `n` ask for more than {most} choices.",
                {"name": "n", "most": MAX_CHOICES},
            )
        if self.echo and self.logprobs is not None:
            raise PydanticCustomError(
                "unsupported",
                "`{name}` together with `logprobs` is not supported: a prompt has no logprobs here.",
                {"name": "echo"},
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [each for each in self.prompt if isinstance(each, int)]
        if tokens or not self.prompt:
            return [tokens]
        return [each for each in self.prompt if not isinstance(each, int)]

    @property
    def num_answers(self) -> int:
        return len(self.prompts) * self.num_choices

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    idle: ClassVar[unsupported.IdleValues] = unsupported.OF_MESSAGES

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None

    @model_validator(mode="after")
    def _has_content(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise ValueError("a message needs `content`")
        return self

    @property
    def num_characters(self) -> int:
        if isinstance(self.content, list):
            return sum(len(part.text) for part in self.content)
        return len(self.content or "")


class ChatBody(GenerateBody):
    """`POST /v1/chat/completions`. Text only."""

    idle: ClassVar[unsupported.IdleValues] = unsupported.OF_CHAT

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "unsupported",
                "`{name}` is only possible with `logprobs`: true.",
                {"name": "top_logprobs"},
            )
        return self

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

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
    if path[:1] == ["response_format"]:
        del path[1:2]  # the type of the format, by which pydantic tells them apart
    if error["type"] in ("empty", "too_many"):
        return BadRequest(error["msg"], param=str(context["name"]))
    if error["type"] == "unsupported":
        named = path[0] if path else str(context["name"])
        return BadRequest(error["msg"], param=named, code="unsupported_parameter")
    if error["type"] == "json_invalid":
        return BadRequest(f"The body is not valid JSON: {context['error']}.")
    field, param = _field_name(path), path[0] if path else None
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
