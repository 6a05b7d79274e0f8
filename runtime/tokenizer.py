"""Text to token ids and back: tokenizer.json, the chat template and streaming decoding. No torch.

Knows nothing of HTTP or of the OpenAI message types beyond "a message is a mapping".
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from jinja2 import Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mserve.runtime.errors import BadRequest, ConfigError
from mserve.runtime.model_folder import Json, read_eos_ids, read_json, read_optional_json

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_MAX_HELD_TOKENS = 32
"""No character takes more tokens than this; whatever is held longer is not UTF-8."""


class Tokenizer:
    """The tokenizer and chat template of one model folder. Immutable, safe to share by threads."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        eos_ids: Iterable[int],
        template: Template | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`variables` are names a chat template may use, as `bos_token` and `eos_token`."""
        self._tokenizer = tokenizer
        self._template = template
        self._variables = dict(variables or {})
        added = tokenizer.get_added_tokens_decoder()
        self._added = {str(each) for each in added.values()}
        self.special_ids = frozenset(token for token, each in added.items() if each.special)
        self._is_byte_level = "ByteLevel" in repr(tokenizer.decoder)
        self.eos_ids = frozenset(eos_ids)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Reads a Hugging Face folder. Raises ConfigError naming the file that is at fault."""
        folder = Path(folder)
        read_json(folder, "tokenizer.json")  # for its errors: the library's name no file
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more precise
            path = str(folder / "tokenizer.json")
            raise ConfigError(f"{path!r} is not a tokenizer: {error}.") from error
        config = read_optional_json(folder, "tokenizer_config.json")
        return cls(tokenizer, read_eos_ids(folder), _template(folder, config), _variables(config))

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `special_tokens`: with what the model's post-processor adds."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for: bytes, since one may end inside a character."""
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if piece in self._added:
            return piece.encode()
        if self._is_byte_level:
            return bytes(map(_BYTE_OF.__getitem__, piece))
        if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            return bytes((int(piece[3:5], 16),))
        return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The prompt of a conversation, ready for the assistant's answer.

        `variables` are passed to the template. Raises BadRequest if the model has no template or
        the template refuses the messages.
        """
        if self._template is None:
            raise BadRequest("This model has no chat template; use completions.", param="messages")
        values = {"add_generation_prompt": True, **self._variables, **variables}
        try:
            return self._template.render(messages=messages, **values)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise BadRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Token ids of `render_chat`; special tokens come from the template alone."""
        return self.encode(self.render_chat(messages, **variables), special_tokens=False)

    def stream(self, before: Sequence[int] = ()) -> "StreamDecoder":
        """A decoder of what follows the ids `before`, whose text is not repeated."""
        return StreamDecoder(self, before)


def _byte_characters() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2): itself if it
    can be printed, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + number): byte for number, byte in enumerate(others)
    }


_BYTE_OF = _byte_characters()


class StreamDecoder:
    """Turns one sequence's token ids, as they come, into text that is never taken back.

    A token may end inside a UTF-8 character, and some decoders treat the first token of a text
    differently; so ids are decoded in a window that begins one clean boundary earlier.

        window    | already emitted | new |
                  0              clean    len(window)
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._window = list(before)
        self._clean = len(before)  # ids before this one decode to whole characters
        # Characters of the window's text that were returned, or are the caller's.
        self._num_emitted = len(tokenizer.decode(before)) if before else 0

    def push(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; "" while a character is unfinished."""
        self._window += ids
        text = self.tokenizer.decode(self._window)
        whole = text.rstrip(REPLACEMENT)
        if len(whole) < len(text) and len(self._window) - self._clean <= _MAX_HELD_TOKENS:
            delta = whole[self._num_emitted :]
            self._num_emitted += len(delta)
            return delta
        return self._emit(text)

    @property
    def pending(self) -> bool:
        """Some of the ids pushed so far have no text yet: a character is unfinished."""
        return self._clean < len(self._window)

    def flush(self) -> str:
        """The rest at the end of the sequence, with what stayed unfinished as U+FFFD."""
        return self._emit(self.tokenizer.decode(self._window))

    def _emit(self, text: str) -> str:
        delta = text[self._num_emitted :]
        del self._window[: self._clean]
        self._clean = len(self._window)
        self._num_emitted = len(self.tokenizer.decode(self._window))
        return delta


def _template(folder: Path, config: Json) -> Template | None:
    """The chat template: its own file, else the configuration's; of several, "default"."""
    path = folder / "chat_template.jinja"
    source = path.read_text("utf-8") if path.exists() else config.get("chat_template")
    if isinstance(source, list):
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    if not isinstance(source, str):
        return None
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise ConfigError(f"The chat template of {str(folder)!r} is wrong: {error}.") from error


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as templates of Hugging Face models expect it; a template cannot run code."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """Jinja's own `tojson` escapes HTML, which would change the prompt."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _variables(config: Json) -> dict[str, str]:
    """The special tokens by name; one is a string or an object with its `content`."""
    values = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token")}
    texts = {name: value["content"] if isinstance(value, dict) else value
             for name, value in values.items()}  # fmt: skip
    return {name: text for name, text in texts.items() if isinstance(text, str)}
