"""Log probabilities of an answer's tokens, in the two forms of the OpenAI API.

Made where text is made, in the worker: one piece of JSON for each piece of text. Knows no request.
"""

import codecs
from collections.abc import Callable, Container, Iterable
from typing import Any, Literal

from mserve.runtime.messages import Logprobs

Scored = tuple[int, Logprobs]  # a token and how probable it was


class LogprobWriter:
    """One answer's. `token_bytes` says what a token stands for; the text leaves out those in
    `skipped`. `text_offset` is the number of characters before the first token, for completions."""

    def __init__(
        self,
        kind: Literal["completion", "chat"],
        token_bytes: Callable[[int], bytes],
        text_offset: int = 0,
        skipped: Container[int] = (),
    ) -> None:
        self._kind = kind
        self._token_bytes = token_bytes
        self._text_offset = text_offset
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def piece(self, tokens: Iterable[Scored]) -> dict[str, Any]:
        """The `logprobs` of a choice with these tokens."""
        return self._chat(tokens) if self._kind == "chat" else self._completion(tokens)

    def _chat(self, tokens: Iterable[Scored]) -> dict[str, Any]:
        content = []
        for token, logprobs in tokens:
            entry = self._entry(token, logprobs.chosen)
            entry["top_logprobs"] = [self._entry(each, value) for each, value in logprobs.top]
            content.append(entry)
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._token_bytes(token)
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

    def _completion(self, tokens: Iterable[Scored]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token, logprobs in tokens:
            body["tokens"].append(self._text(token))
            body["token_logprobs"].append(logprobs.chosen)
            ranked = (*logprobs.top, (token, logprobs.chosen))  # its own too, however unlikely
            body["top_logprobs"].append({self._text(each): value for each, value in ranked})
            body["text_offset"].append(self._text_offset)
            if token not in self._skipped:
                self._text_offset += len(self._decoder.decode(self._token_bytes(token)))
        return body

    def _text(self, token: int) -> str:
        """Unlike bytes have unlike texts, as they are keys: a part of a character is spelled."""
        raw = self._token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def joined(pieces: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The logprobs of a whole choice from those of its pieces; None if there are none."""
    whole: dict[str, Any] | None = None
    for piece in pieces:
        if piece is None:
            continue
        if whole is None:
            whole = {
                key: list(value) if value is not None else None for key, value in piece.items()
            }
            continue
        for key, value in piece.items():
            if value is not None:
                whole[key] += value
    return whole
