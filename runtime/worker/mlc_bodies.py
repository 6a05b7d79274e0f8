"""What MLC-LLM's microserving calls carry: bodies as its router dumps them, checked and read.

Knows neither HTTP nor plans. A field that asks for what is not done here is refused by its name.
"""

import base64
import json
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from mserve.runtime.errors import BadRequest
from mserve.runtime.grammar import grammar_of_schema
from mserve.runtime.messages import Receiver, Sampling


class DebugConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Of it, only `ignore_eos` has a meaning here."""

    ignore_eos: bool = False
    pinned_system_prompt: bool = False
    special_request: str | None = None
    grammar_execution_mode: str = "jump_forward"
    disagg_config: Any = None


class ResponseFormat(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object"] = "text"
    schema: str | None = None
    json_schema: str | None = None  # its name in MLC-LLM's own dump


class Completion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An OpenAI completion request as MLC-LLM dumps it: every field, most of them null."""

    prompt: str | list[int]
    model: str | None = None
    best_of: int | None = 1
    echo: bool | None = False
    suffix: str | None = None
    logprobs: int | None = None
    n: int | None = 1
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    debug_config: DebugConfig | None = None

    def refuse_unsupported(self) -> None:
        """Raises BadRequest naming the first field that asks for what is not done here."""
        asked = {
            "n": self.n not in (None, 1),
            "best_of": self.best_of not in (None, 1),
            "echo": bool(self.echo),
            "suffix": bool(self.suffix),
            "logprobs": self.logprobs is not None,
        }
        for name, is_asked in asked.items():
            if is_asked:
                raise BadRequest(f"`{name}` is not supported by this worker.", param=name)

    def sampling(self, max_tokens: int) -> Sampling:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        grammar = self._grammar()
        try:
            return msgspec.convert(
                {
                    "max_tokens": max_tokens,
                    "temperature": 1.0 if self.temperature is None else self.temperature,
                    "top_p": 1.0 if self.top_p is None else self.top_p,
                    "seed": self.seed,
                    "stop": stop,
                    "ignore_eos": bool(self.debug_config and self.debug_config.ignore_eos),
                    "presence_penalty": self.presence_penalty or 0.0,
                    "frequency_penalty": self.frequency_penalty or 0.0,
                    "logit_bias": {int(key): bias for key, bias in (self.logit_bias or {}).items()},
                    "grammar": grammar,
                },
                Sampling,
            )
        except (msgspec.ValidationError, ValueError) as error:
            raise BadRequest(f"The request cannot be sampled: {error}.") from None

    def _grammar(self) -> str:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return ""
        text = wanted.schema or wanted.json_schema
        try:
            schema = json.loads(text) if text else {"type": "object"}
        except ValueError as error:
            raise BadRequest(f"`response_format`: {error}.", param="response_format") from None
        return grammar_of_schema(schema, "response_format")


class PrepRecv(Completion, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[0, end)` will come from elsewhere; -1 is all but the last token."""

    end: int | None = None
    kv_window_end: int | None = None


class RemoteSend(Completion, frozen=True, forbid_unknown_fields=True, kw_only=True):
    begin: int | None = None
    end: int | None = None
    kv_addr_info: str | None = None
    recv_rank: int | None = None
    kv_window_begin: int | None = None
    kv_window_end: int | None = None
    kv_append_metadata: str | None = None
    dst_group_offset: int | None = None


class StartGenerate(Completion, frozen=True, forbid_unknown_fields=True, kw_only=True):
    begin: int | None = None
    kv_window_begin: int | None = None


class Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    """What is behind the opaque `kv_append_metadata`. Without a receiver nothing has to be sent."""

    end: int
    receiver: Receiver | None = None


def sequence_of(body: Completion) -> str:
    if not body.user:
        raise BadRequest("`user` must name the sequence.", param="user")
    return body.user


def either(body: Completion, *names: str) -> Any:
    """The value under whichever name was used. Raises BadRequest if none was."""
    known = {each.name for each in fields(body)}
    for name in names:
        if name in known and getattr(body, name) is not None:
            return getattr(body, name)
    raise BadRequest(f"`{names[0]}` is missing.", param=names[0])


def position_in(position: int, num_tokens: int) -> int:
    """Below zero it counts from the prompt's end. Raises BadRequest outside of the prompt."""
    found = position + num_tokens if position < 0 else position
    if not 0 <= found <= num_tokens:
        raise BadRequest(f"Position {position} is outside of a prompt of {num_tokens} tokens.")
    return found


def opaque(metadata: Metadata) -> str:
    """Text that a router hands from receiver to sender."""
    return base64.b64encode(msgspec.msgpack.encode(metadata)).decode()


def metadata_of(text: str) -> Metadata:
    """The inverse of `opaque`. Raises BadRequest."""
    try:
        return msgspec.msgpack.decode(base64.b64decode(text, validate=True), type=Metadata)
    except (msgspec.DecodeError, ValueError):
        raise BadRequest(
            "`kv_append_metadata` is not what a prep_recv of mserve has answered.",
            param="kv_append_metadata",
        ) from None
