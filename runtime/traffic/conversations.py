"""Conversations (ShareGPT and its like) as traffic: every answer in one is a request.

A turn's prompt is everything said before it, so turns share what they have in common, and so do
conversations that begin with the same messages. The files say nothing of time: conversations begin
at random moments, and turns follow each other after random pauses. Knows no chat template.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import Struct, field

from mserve.runtime.traffic.arrivals import BLOCK_TOKENS, Arrival, block_ids, chained
from mserve.runtime.traffic.trace_lines import at_line, json_lines

CountTokens = Callable[[str], int]

ANSWERERS = frozenset({"assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"})


class _Message(Struct):
    """ShareGPT's (from, value) or OpenAI's (role, content)."""

    speaker: str = field(name="from", default="")
    value: str = ""
    role: str = ""
    content: str = ""


class _ConversationLine(Struct):
    prompt: str | None = None
    response: str | None = None
    conversations: tuple[_Message, ...] = ()
    messages: tuple[_Message, ...] = ()
    id: str | int | None = None

    @property
    def said(self) -> list[tuple[bool, str]]:
        """(is an answer, text) in order."""
        if self.prompt is not None and self.response is not None:
            return [(False, self.prompt), (True, self.response)]
        return [
            ((message.speaker or message.role) in ANSWERERS, message.value or message.content)
            for message in self.conversations or self.messages
        ]


@dataclass(frozen=True, slots=True)
class Pace:
    """When what is said is said."""

    conversations_per_s: float = 1.0  # that begin, at random (Poisson)
    pause_s: float = 30.0  # mean from one turn's arrival to the next (exponential)


def estimated_tokens(text: str) -> int:
    """Where no tokenizer is at hand: four bytes of UTF-8 a token, which suits English."""
    return -(-len(text.encode()) // 4)


def read_conversations(
    path: Path,
    count: CountTokens,
    rng: random.Random,
    pace: Pace = Pace(),
    block_tokens: int = BLOCK_TOKENS,
) -> Iterator[Arrival]:
    """JSONL with `prompt` and `response`, or `conversations` or `messages`, on every line.

    `count` says how many tokens a text has. Conversations without an answer are passed over. Raises
    TrafficError for a line that is none.
    """
    later: list[tuple[float, int, Arrival]] = []  # a heap; the number settles ties
    begin_s, made = 0.0, 0
    for number, line in json_lines(path, _ConversationLine):
        if not line.said:
            raise at_line(path, number, "there is neither prompt and response nor a conversation.")
        begin_s += rng.expovariate(pace.conversations_per_s)
        while later and later[0][0] <= begin_s:
            yield heapq.heappop(later)[2]
        at_s = begin_s
        for turn in _turns(line, str(line.id or number), count, block_tokens):
            made += 1
            heapq.heappush(later, (at_s, made, replace(turn, at_s=at_s)))
            at_s += rng.expovariate(1 / pace.pause_s)
    while later:
        yield heapq.heappop(later)[2]


def _turns(
    line: _ConversationLine, session: str, count: CountTokens, block_tokens: int
) -> Iterator[Arrival]:
    """The requests of a conversation, all at time zero."""
    parts: list[tuple[int, int]] = []
    for is_answer, text in line.said:
        num_tokens = max(1, count(text))
        if is_answer and parts:
            num_prompt = sum(tokens for _, tokens in parts)
            blocks = block_ids(parts, block_tokens)
            yield Arrival(0.0, num_prompt, num_tokens, blocks, block_tokens, session)
        parent = parts[-1][0] if parts else 0
        parts.append((chained(parent, text, num_tokens), num_tokens))
