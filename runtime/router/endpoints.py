"""The OpenAI endpoints as raw ASGI: read, check, execute, and write the answer as it comes.

An answer's bytes are sent as the worker rendered them; awaiting `send` is what slows a worker down
for a slow reader. A client that goes cancels its plan. Knows no plan's inside.
"""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Literal

from starlette.types import Receive, Scope, Send

from mserve.runtime import asgi
from mserve.runtime.chunks import DONE, usage_event, whole_answer
from mserve.runtime.clock import Clock
from mserve.runtime.errors import EngineFailure, NotFound, RequestError
from mserve.runtime.messages import Finish, Render, pack_tokens
from mserve.runtime.router import openai, responses
from mserve.runtime.router.admission import Admission
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.telemetry import RouterMetrics

log = logging.getLogger(__name__)

EVENT_STREAM = b"text/event-stream; charset=utf-8"
DEFAULT_COMPLETION_TOKENS = 16  # the OpenAI API's
MAX_INLINE_CHARACTERS = 16_384  # a longer prompt is tokenized in a thread

CLIENT_GONE = 499  # nobody reads this status; log and metrics have it, as nginx's do
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Headers = list[asgi.Header]
Facts = Mapping[str, float | str]


class StreamedAnswer:
    """Server-sent events, from the first token on; an error before it is a plain HTTP error."""

    def __init__(self, send: Send, headers: Headers, render: Render, include_usage: bool) -> None:
        self._send = send
        self._headers = headers
        self._render = render
        self._include_usage = include_usage
        self.has_started = False
        self.is_complete = False

    def placed(self, plan_id: str, route: str) -> None:
        if not self.has_started:
            self._headers[-1] = plan_header(plan_id, route)

    async def tokens(self, payload: bytes) -> None:
        if not self.has_started:
            await self._start()
        await self._send({"type": "http.response.body", "body": payload, "more_body": True})

    async def finish(self, finish: Finish) -> None:
        if not self.has_started:
            await self._start()
        self.is_complete = True
        end = usage_event(self._render, finish) if self._include_usage else b""
        await asgi.write(self._send, end + DONE, more=False)

    async def fail(self, error: RequestError) -> None:
        self.is_complete = True
        if self.has_started:
            await asgi.write(self._send, responses.error_event(error), more=False)
        else:
            await respond_error(self._send, error, self._headers)

    async def _start(self) -> None:
        self.has_started = True
        await asgi.start(
            self._send, 200, EVENT_STREAM, [(b"cache-control", b"no-cache"), *self._headers]
        )


class WholeAnswer:
    """One JSON body at the end."""

    def __init__(self, send: Send, headers: Headers, render: Render, *, chat: bool) -> None:
        self._send = send
        self._headers = headers
        self._render = render
        self._chat = chat
        self._parts: list[bytes] = []
        self.is_complete = False

    def placed(self, plan_id: str, route: str) -> None:
        self._headers[-1] = plan_header(plan_id, route)

    async def tokens(self, payload: bytes) -> None:
        self._parts.append(payload)

    async def finish(self, finish: Finish) -> None:
        self.is_complete = True
        text = b"".join(self._parts).decode()
        body = whole_answer(self._render, text, finish, chat=self._chat)
        await asgi.respond(self._send, 200, body, headers=self._headers)

    async def fail(self, error: RequestError) -> None:
        self.is_complete = True
        await respond_error(self._send, error, self._headers)


AnswerSink = StreamedAnswer | WholeAnswer


class GenerateEndpoint:
    """`POST /v1/completions` and `/v1/chat/completions`: one object each."""

    def __init__(
        self,
        executor: Executor,
        admission: Admission,
        fleet: Fleet,
        tokenizer: openai.Tokenizer,
        model: str,
        metrics: RouterMetrics,
        *,
        chat: bool,
        clock: Clock,
        new_id: Callable[[], str],
        max_body_bytes: int,
    ) -> None:
        self._executor = executor
        self._admission = admission
        self._fleet = fleet
        self._tokenizer = tokenizer
        self._model = model
        self._metrics = metrics
        self._chat = chat
        self._clock = clock
        self._new_id = new_id
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = self._clock.now()
        facts = header_facts(scope)
        request_id = str(facts.get("header:x-request-id") or self._new_id())
        headers: Headers = [(b"x-request-id", request_id.encode())]
        try:
            status = await self._handle(request_id, facts, headers, receive, send)
        except asgi.ClientGone:
            status = CLIENT_GONE
        except RequestError as error:
            status = error.status
            await respond_error(send, error, headers)
        if status >= 400:
            self._metrics.failed(status)
        self._log(request_id, status, began)

    async def _handle(
        self, request_id: str, facts: Facts, headers: Headers, receive: Receive, send: Send
    ) -> int:
        """The status of the answer; raises what is wrong before there is one."""
        body = await asgi.read_body(receive, self._max_body_bytes)
        parsed: openai.GenerateBody
        if self._chat:
            parsed = openai.parse_body(openai.ChatBody, body)
        else:
            parsed = openai.parse_body(openai.CompletionBody, body)
        request_facts = facts_of(parsed, facts)
        with self._admission.admit(str(request_facts["tenant"])):
            request = await self._request(request_id, parsed, request_facts)
            sink = self._sink(parsed, request.render, headers, send)
            return await self._answer(request, sink, receive)

    async def _request(
        self, request_id: str, body: openai.GenerateBody, facts: Facts
    ) -> GenerationRequest:
        if body.model != self._model:
            raise NotFound(
                f"The model `{body.model}` does not exist; this server has `{self._model}`.",
                param="model",
                code="model_not_found",
            )
        tokens = await self._encode(body)
        default = None if self._chat else DEFAULT_COMPLETION_TOKENS
        grammar = await asyncio.to_thread(body.grammar) if body.has_form else ""
        longest = self._fleet.snapshot.max_model_len
        max_tokens = openai.choose_max_tokens(body, len(tokens), longest, default)
        return GenerationRequest(
            request_id,
            pack_tokens(tokens),
            body.sampling(max_tokens, grammar),
            self._render(body),
            facts=facts,
        )

    async def _encode(self, body: openai.GenerateBody) -> list[int]:
        if isinstance(body, openai.ChatBody):
            num_characters = sum(len(message.content or "") for message in body.messages)
            if num_characters > MAX_INLINE_CHARACTERS:
                return await asyncio.to_thread(openai.encode_chat, body, self._tokenizer)
            return openai.encode_chat(body, self._tokenizer)
        assert isinstance(body, openai.CompletionBody), "there are two kinds of bodies"
        if isinstance(body.prompt, str) and len(body.prompt) > MAX_INLINE_CHARACTERS:
            return await asyncio.to_thread(openai.encode_completion, body, self._tokenizer)
        return openai.encode_completion(body, self._tokenizer)

    def _render(self, body: openai.GenerateBody) -> Render:
        prefix = "chatcmpl" if self._chat else "cmpl"
        streamed: Literal["chat", "completion"] = "chat" if self._chat else "completion"
        return Render(
            kind=streamed if body.stream else "text",
            id=f"{prefix}-{self._new_id()}",
            created=int(self._clock.time()),
            model=self._model,
        )

    def _sink(
        self, body: openai.GenerateBody, render: Render, headers: Headers, send: Send
    ) -> AnswerSink:
        headers.append(plan_header("", ""))
        if body.stream:
            return StreamedAnswer(send, headers, render, body.include_usage)
        return WholeAnswer(send, headers, render, chat=self._chat)

    async def _answer(self, request: GenerationRequest, sink: AnswerSink, receive: Receive) -> int:
        """Runs the plan into `sink`; raises ClientGone when its reader has left."""
        failure: RequestError
        try:
            async with asgi.cancelled_by_disconnect(receive, lambda: sink.is_complete):
                await self._executor.execute(request, sink)
            return 200
        except RequestError as error:
            failure = error
        except (ExceptionGroup, AssertionError):
            log.exception("a request failed", extra={"request_id": request.id})
            failure = EngineFailure("The router failed at this request; its log says why.")
        await sink.fail(failure)
        return failure.status

    def _log(self, request_id: str, status: int, began: float) -> None:
        if log.isEnabledFor(logging.INFO):
            path = "/v1/chat/completions" if self._chat else "/v1/completions"
            took_ms = round((self._clock.now() - began) * 1e3, 3)
            log.info(
                path, extra={"request_id": request_id, "status": status, "duration_ms": took_ms}
            )


async def respond_error(send: Send, error: RequestError, headers: Headers) -> None:
    """An OpenAI error object with the status of its kind."""
    if error.retry_after_s is not None:
        seconds = max(1, math.ceil(error.retry_after_s))
        headers = [*headers, (b"retry-after", b"%d" % seconds)]
    await asgi.respond(send, error.status, responses.error_body(error), headers=headers)


def plan_header(plan_id: str, route: str) -> asgi.Header:
    return (b"x-mserve-plan", f"{plan_id}; route={route}".encode())


def header_facts(scope: Scope) -> dict[str, float | str]:
    """Every header as `header:<name>`; an id for the request that is not safe to echo is left out."""
    facts: dict[str, float | str] = {
        "header:" + name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
    }
    if not REQUEST_ID.fullmatch(str(facts.get("header:x-request-id", ""))):
        facts.pop("header:x-request-id", None)
    return facts


def facts_of(body: openai.GenerateBody, headers: Facts) -> Facts:
    """What a strategy may ask about a request (language: `tenant`, `session`, `priority`, ...)."""
    return {
        **headers,
        "model": body.model,
        "tenant": body.user or body.safety_identifier or headers.get("header:x-tenant", ""),
        "session": body.prompt_cache_key or headers.get("header:x-session-id", ""),
        "priority": body.priority or 0.0,
    }
