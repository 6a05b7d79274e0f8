"""Where answers go: server-sent events, or one JSON body at the end. Each has one or more choices.

Writing events is awaited, so a slow reader slows its workers down and nothing piles up here; a JSON
body is kept until it is whole, and `max_tokens` bounds it. Knows of plans only what their header says.
"""

import asyncio
import math
from collections.abc import Sequence

from msgspec.structs import replace
from starlette.types import Send

from mserve.runtime import asgi
from mserve.runtime.chunks import DONE, WholeChoice, chunk, usage_event, whole_answer
from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Finish, Render
from mserve.runtime.router import responses

EVENT_STREAM = b"text/event-stream; charset=utf-8"

Headers = list[asgi.Header]


class ChoiceSink:
    """One choice of an answer, as the executor sees it."""

    def __init__(self, answer: "StreamedAnswer | WholeAnswer", index: int) -> None:
        self._answer = answer
        self._index = index
        self.has_begun = asyncio.Event()  # the first token is there, hence the prompt's KV

    def placed(self, plan_id: str, route: str, version: int) -> None:
        """The header names the plan of the first choice."""
        if self._index == 0:
            self._answer.placed(plan_id, route, version)

    async def tokens(self, payload: bytes) -> None:
        self.has_begun.set()
        await self._answer.tokens(self._index, payload)

    async def finish(self, finish: Finish) -> None:
        self.has_begun.set()
        await self._answer.finish(self._index, finish)


class StreamedAnswer:
    """Server-sent events, from the first token on; an error before it is a plain HTTP error.

    `echoes` are the texts that the choices begin with, one for each choice.
    """

    def __init__(
        self,
        send: Send,
        headers: Headers,
        render: Render,
        echoes: Sequence[str],
        *,
        per_prompt: int = 1,
        include_usage: bool = False,
    ) -> None:
        self._send = send
        self._headers = headers
        self._plan: Headers = []  # once there is one
        self._render = render
        self._include_usage = include_usage
        self._echoes = dict(enumerate(echoes))
        self._counts = _Counts(len(echoes), per_prompt)
        self._writing = asyncio.Lock()
        self._has_started = False
        self.is_complete = False
        self.sinks = [ChoiceSink(self, index) for index in range(len(echoes))]

    def placed(self, plan_id: str, route: str, version: int) -> None:
        self._plan = [_plan_header(plan_id, route, version)]

    async def tokens(self, index: int, payload: bytes) -> None:
        async with self._writing:
            await self._begin(index)
            await self._send({"type": "http.response.body", "body": payload, "more_body": True})

    async def finish(self, index: int, finish: Finish) -> None:
        total = self._counts.add(index, finish)
        async with self._writing:
            await self._begin(index)
            if total is not None:
                self.is_complete = True
                end = usage_event(self._render, total) if self._include_usage else b""
                await asgi.write(self._send, end + DONE, more=False)

    async def fail(self, error: RequestError) -> None:
        self.is_complete = True
        if self._has_started:
            await asgi.write(self._send, responses.error_event(error), more=False)
        else:
            await respond_error(self._send, error, [*self._headers, *self._plan])

    async def _begin(self, index: int) -> None:
        if not self._has_started:
            self._has_started = True
            await asgi.start(
                self._send,
                200,
                EVENT_STREAM,
                [(b"cache-control", b"no-cache"), *self._headers, *self._plan],
            )
        if echo := self._echoes.pop(index, ""):
            await asgi.write(self._send, chunk(replace(self._render, index=index), echo))


class WholeAnswer:
    """One JSON body at the end. `has_events`: what comes are pieces for a stream, for the sake of
    their logprobs; otherwise it is bare text."""

    def __init__(
        self,
        send: Send,
        headers: Headers,
        render: Render,
        echoes: Sequence[str],
        *,
        per_prompt: int = 1,
        chat: bool,
        has_events: bool = False,
    ) -> None:
        self._send = send
        self._headers = headers
        self._plan: Headers = []  # once there is one
        self._render = render
        self._chat = chat
        self._has_events = has_events
        self._echoes = echoes
        self._counts = _Counts(len(echoes), per_prompt)
        self._parts: list[list[bytes]] = [[] for _ in echoes]
        self.is_complete = False
        self.sinks = [ChoiceSink(self, index) for index in range(len(echoes))]

    def placed(self, plan_id: str, route: str, version: int) -> None:
        self._plan = [_plan_header(plan_id, route, version)]

    async def tokens(self, index: int, payload: bytes) -> None:
        self._parts[index].append(payload)

    async def finish(self, index: int, finish: Finish) -> None:
        total = self._counts.add(index, finish)
        if total is None:
            return
        self.is_complete = True
        choices = [self._choice(number) for number in range(len(self._parts))]
        body = whole_answer(self._render, choices, total, chat=self._chat)
        await asgi.respond(self._send, 200, body, headers=[*self._headers, *self._plan])

    async def fail(self, error: RequestError) -> None:
        self.is_complete = True
        await respond_error(self._send, error, [*self._headers, *self._plan])

    def _choice(self, index: int) -> WholeChoice:
        payload, reason = b"".join(self._parts[index]), self._counts.reason(index)
        if self._has_events:
            return WholeChoice.of_events(payload, reason)
        return WholeChoice(self._echoes[index] + payload.decode(), reason)


AnswerWriter = StreamedAnswer | WholeAnswer


class _Counts:
    """The tokens of an answer with several choices, `per_prompt` to a prompt."""

    def __init__(self, num_choices: int, per_prompt: int) -> None:
        self._finishes: dict[int, Finish] = {}
        self._num_choices = num_choices
        self._per_prompt = per_prompt

    def add(self, index: int, finish: Finish) -> Finish | None:
        """The total, with the last choice. A prompt counts once, as for its first choice."""
        self._finishes[index] = finish
        if len(self._finishes) < self._num_choices:
            return None
        prompts = [self._finishes[i] for i in range(0, self._num_choices, self._per_prompt)]
        return Finish(
            finish.reason,
            prompt_tokens=sum(each.prompt_tokens for each in prompts),
            completion_tokens=sum(each.completion_tokens for each in self._finishes.values()),
            cached_tokens=sum(each.cached_tokens for each in prompts),
        )

    def reason(self, index: int) -> str:
        return self._finishes[index].reason


async def respond_error(send: Send, error: RequestError, headers: Headers) -> None:
    """An OpenAI error object with the status of its kind."""
    if error.retry_after_s is not None:
        seconds = max(1, math.ceil(error.retry_after_s))
        headers = [*headers, (b"retry-after", b"%d" % seconds)]
    await asgi.respond(send, error.status, responses.error_body(error), headers=headers)


def _plan_header(plan_id: str, route: str, version: int) -> asgi.Header:
    return (b"x-mserve-plan", f"{plan_id}; route={route}; version={version}".encode())
