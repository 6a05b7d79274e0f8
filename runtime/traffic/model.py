"""What a load test must know of the model behind a server: name, context, ids that it takes.

Asks `/v1/models`, then tries: whether answers can be kept from ending early, and which token ids are in
the vocabulary, since no server says. Knows nothing of traffic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import msgspec
from msgspec import Struct

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.answers import WholeAnswer
from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.client import Client
from mserve.runtime.traffic.prompts import Vocabulary, prompt_tokens

COMPLETIONS_PATH = "/v1/completions"
MODELS_PATH = "/v1/models"
SMALLEST_VOCABULARY = 64
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`ignores_eos`: answers can be made as long as traffic asks. `context` in tokens, if known."""

    name: str
    context: int | None
    vocabulary: Vocabulary
    ignores_eos: bool

    def request(self, arrival: Arrival, seed: int) -> bytes:
        """The body of a streamed completion; greedy, so that servers do the same work."""
        body = {
            "model": self.name,
            "prompt": prompt_tokens(arrival, self.vocabulary, seed),
            "max_tokens": arrival.num_output,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return _encode({**body, "ignore_eos": True} if self.ignores_eos else body)


class _Entry(Struct):
    id: str
    max_model_len: int | None = None


class _Listing(Struct):
    data: list[_Entry]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator says about the model; None is found out."""

    name: str | None = None
    vocabulary: Vocabulary | None = None
    ignore_eos: bool = True


async def find_model(client: Client, url: str, wanted: Wanted) -> ServedModel:
    """Raises ConfigError where the server is not there, or cannot be used as it is asked."""
    try:
        entry = _chosen(await _listed(client, url), wanted.name, url)
        ignores_eos = await _takes_ignore_eos(client, entry.id) if wanted.ignore_eos else False
        vocabulary = wanted.vocabulary or await _find_vocabulary(client, entry.id)
    except OSError as error:
        raise ConfigError(f"No server answers at {url}: {error}.") from None
    return ServedModel(entry.id, entry.max_model_len, vocabulary, ignores_eos)


async def _listed(client: Client, url: str) -> list[_Entry]:
    answer = WholeAnswer()
    await client.get(MODELS_PATH, answer)
    if answer.status in (401, 403):
        raise ConfigError(f"{url} wants a key (set OPENAI_API_KEY): {answer.problem}")
    try:
        return msgspec.json.decode(answer.body, type=_Listing).data
    except msgspec.DecodeError:
        raise ConfigError(
            f"{url} is no OpenAI-compatible server: GET {MODELS_PATH} gave status {answer.status}."
        ) from None


def _chosen(entries: list[_Entry], name: str | None, url: str) -> _Entry:
    names = [entry.id for entry in entries]
    if name is None:
        if len(entries) == 1:
            return entries[0]
        raise ConfigError(f"{url} has {len(names)} models; give --model, one of {_list(names)}.")
    for entry in entries:
        if entry.id == name:
            return entry
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {_list(names)}."
    raise ConfigError(f"{url} has no model {name!r}; {hint}")


def _list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


async def _takes_ignore_eos(client: Client, model: str) -> bool:
    """Servers that do not know the parameter refuse it, or ignore it, which the answers will show."""
    with_it = await _tried(client, model, 1, {"ignore_eos": True})
    if with_it.status == 200:
        return True
    without = await _tried(client, model, 1, {})
    if without.status == 200:
        return False
    raise ConfigError(
        f"The server refused a completion of a prompt of token ids (status {without.status}):"
        f" {without.problem}"
    )


async def _find_vocabulary(client: Client, model: str) -> Vocabulary:
    """The usual range, halved until its last id is taken."""
    refused = ""
    for high in _halves(Vocabulary().high):
        answer = await _tried(client, model, high - 1, {})
        if answer.status == 200:
            return Vocabulary.below(high)
        refused = f"status {answer.status}: {answer.problem}"
    raise ConfigError(
        f"The server refuses every token id that was tried ({refused}). If the model is all right,"
        " say with --vocab LOW..HIGH which ids prompts may have."
    )


def _halves(high: int) -> Iterator[int]:
    while high >= SMALLEST_VOCABULARY:
        yield high
        high //= 2


async def _tried(client: Client, model: str, token: int, more: dict[str, object]) -> WholeAnswer:
    """A prompt of one token and an answer of one. Raises ConfigError where the server is at its
    limits, or broken: that says nothing about the token."""
    answer = WholeAnswer()
    body = {"model": model, "prompt": [token], "max_tokens": 1, "temperature": 0, **more}
    await client.post(COMPLETIONS_PATH, _encode(body), answer)
    if answer.status in (401, 403, 404, 429) or answer.status >= 500:
        raise ConfigError(
            f"The server refused a first completion (status {answer.status}): {answer.problem}"
        )
    return answer
