"""The OpenAI endpoints as raw ASGI: read, check, execute, and write the answer as it comes.

An answer's bytes are sent as the worker rendered them; awaiting `send` is what slows a worker down
for a slow reader. A client that goes cancels its plan. Knows no plan's inside.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from mserve.runtime import asgi
from mserve.runtime.clock import Clock
from mserve.runtime.errors import EngineFailure, NotFound, RequestError
from mserve.runtime.messages import Render, pack_tokens
from mserve.runtime.router import openai, prompts
from mserve.runtime.router.admission import Admission
from mserve.runtime.router.choices import execute_all, sampling_of_choice
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.gate import cache_salt, key_of
from mserve.runtime.router.keys import ApiKey
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.sinks import (
    AnswerWriter,
    Headers,
    StreamedAnswer,
    WholeAnswer,
    respond_error,
)
from mserve.runtime.router.telemetry import RouterMetrics

log = logging.getLogger(__name__)

DEFAULT_COMPLETION_TOKENS = 16  # the OpenAI API's
MAX_INLINE_CHARACTERS = 16_384  # a longer prompt is tokenized in a thread

CLIENT_GONE = 499  # nobody reads this status; log and metrics have it, as nginx's do
_SECRET_HEADERS = frozenset(
    {b"authorization", b"cookie", b"proxy-authorization", b"x-api-key", b"api-key"}
)
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Facts = Mapping[str, float | str]


class GenerateEndpoint:
    """`POST /v1/completions` and `/v1/chat/completions`: one object each."""

    def __init__(
        self,
        executor: Executor,
        admission: Admission,
        fleet: Fleet,
        tokenizer: prompts.Tokenizer,
        model: str,
        metrics: RouterMetrics,
        *,
        chat: bool,
        clock: Clock,
        new_id: Callable[[], str],
        max_body_bytes: int,
        salt_secret: bytes,
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
        self._salt_secret = salt_secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = self._clock.now()
        facts = header_facts(scope)
        request_id = str(facts.get("header:x-request-id") or self._new_id())
        headers: Headers = [(b"x-request-id", request_id.encode())]
        try:
            status = await self._handle(request_id, key_of(scope), facts, headers, receive, send)
        except asgi.ClientGone:
            status = CLIENT_GONE
        except RequestError as error:
            status = error.status
            await respond_error(send, error, headers)
        except Exception:  # before there was an answer to fail: `_answer` has its own
            fault = _own_fault(request_id)
            status = fault.status
            await respond_error(send, fault, headers)
        if status >= 400:
            self._metrics.failed(status)
        self._log(request_id, status, began)

    async def _handle(
        self,
        request_id: str,
        key: ApiKey | None,
        facts: Facts,
        headers: Headers,
        receive: Receive,
        send: Send,
    ) -> int:
        """The status of the answer; raises what is wrong before there is one."""
        body = await asgi.read_body(receive, self._max_body_bytes)
        parsed: openai.GenerateBody
        if self._chat:
            parsed = openai.parse_body(openai.ChatBody, body)
        else:
            parsed = openai.parse_body(openai.CompletionBody, body)
        request_facts = facts_of(parsed, facts, key)
        salt = cache_salt(self._salt_secret, key, parsed.cache_salt or "")
        most = key.max_requests if key else None
        with self._admission.admit(str(request_facts["tenant"]), most, parsed.num_answers):
            read = await self._read(parsed)
            requests = await self._requests(request_id, parsed, read.tokens, request_facts, salt)
            answer = self._writer(parsed, requests[0].render, headers, read.echoes, send)
            return await self._answer(requests, answer, parsed.num_choices, receive)

    async def _read(self, body: openai.GenerateBody) -> prompts.Prompts:
        if body.model != self._model:
            raise NotFound(
                f"The model `{body.model}` does not exist; this server has `{self._model}`.",
                param="model",
                code="model_not_found",
            )
        if prompts.num_characters(body) > MAX_INLINE_CHARACTERS:
            return await asyncio.to_thread(prompts.read_prompts, body, self._tokenizer)
        return prompts.read_prompts(body, self._tokenizer)

    async def _requests(
        self,
        request_id: str,
        body: openai.GenerateBody,
        encoded: Sequence[list[int]],
        facts: Facts,
        salt: bytes,
    ) -> list[GenerationRequest]:
        """One for each choice: all of the first prompt, then all of the next."""
        default = None if self._chat else DEFAULT_COMPLETION_TOKENS
        grammar = await asyncio.to_thread(body.grammar) if body.has_form else ""
        longest = self._fleet.snapshot.max_model_len
        render = self._render(body)
        requests: list[GenerationRequest] = []
        for tokens in encoded:
            max_tokens = prompts.choose_max_tokens(body, len(tokens), longest, default)
            sampling, packed = body.sampling(max_tokens, grammar), pack_tokens(tokens)
            requests += [
                GenerationRequest(
                    request_id,
                    packed,
                    sampling_of_choice(sampling, number),
                    replace(render, index=len(requests) + number),
                    salt=salt,
                    facts=facts,
                )
                for number in range(body.num_choices)
            ]
        return requests

    def _render(self, body: openai.GenerateBody) -> Render:
        prefix = "chatcmpl" if self._chat else "cmpl"
        events: Literal["chat", "completion"] = "chat" if self._chat else "completion"
        has_events = body.stream or body.num_logprobs is not None
        return Render(
            kind=events if has_events else "text",
            id=f"{prefix}-{self._new_id()}",
            created=int(self._clock.time()),
            model=self._model,
        )

    def _writer(
        self,
        body: openai.GenerateBody,
        render: Render,
        headers: Headers,
        echoes: Sequence[str],
        send: Send,
    ) -> AnswerWriter:
        per_prompt = body.num_choices
        if body.stream:
            include_usage = body.include_usage
            return StreamedAnswer(
                send, headers, render, echoes, per_prompt=per_prompt, include_usage=include_usage
            )
        has_events = render.kind != "text"
        return WholeAnswer(
            send,
            headers,
            render,
            echoes,
            per_prompt=per_prompt,
            chat=self._chat,
            has_events=has_events,
        )

    async def _answer(
        self,
        requests: Sequence[GenerationRequest],
        answer: AnswerWriter,
        per_prompt: int,
        receive: Receive,
    ) -> int:
        """Runs the plans into `answer`; raises ClientGone when its reader has left."""
        failure: RequestError
        try:
            async with asgi.cancelled_by_disconnect(receive, lambda: answer.is_complete):
                await execute_all(self._executor, requests, answer.sinks, per_prompt)
            return 200
        except RequestError as error:
            failure = error
        except asgi.ClientGone:
            raise
        except Exception:
            failure = _own_fault(requests[0].id)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            failure = _own_fault(requests[0].id)
        await answer.fail(failure)
        return failure.status

    def _log(self, request_id: str, status: int, began: float) -> None:
        if log.isEnabledFor(logging.INFO):
            path = "/v1/chat/completions" if self._chat else "/v1/completions"
            took_ms = round((self._clock.now() - began) * 1e3, 3)
            log.info(
                path, extra={"request_id": request_id, "status": status, "duration_ms": took_ms}
            )


def _own_fault(request_id: str) -> RequestError:
    """For the client, where the log has the reason: a fault of ours ends the request it concerns."""
    log.exception("a request failed", extra={"request_id": request_id})
    return EngineFailure("The router failed at this request; its log says why.")


def _is_being_cancelled() -> bool:
    """Somebody asked for it: the server stops. A cancel that nobody asked for is a fault of ours."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def header_facts(scope: Scope) -> dict[str, float | str]:
    """Every header as `header:<name>`, but for secrets and an id that is not safe to echo."""
    facts: dict[str, float | str] = {
        "header:" + name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name not in _SECRET_HEADERS
    }
    if not REQUEST_ID.fullmatch(str(facts.get("header:x-request-id", ""))):
        facts.pop("header:x-request-id", None)
    return facts


def facts_of(body: openai.GenerateBody, headers: Facts, key: ApiKey | None = None) -> Facts:
    """What a strategy may ask about a request (language: `tenant`, `session`, `priority`, ...).
    With a key the tenant is the key's, whatever the request says."""
    claimed = body.user or body.safety_identifier or headers.get("header:x-tenant", "")
    return {
        **headers,
        "model": body.model,
        "tenant": claimed if key is None else key.tenant,
        "session": body.prompt_cache_key or headers.get("header:x-session-id", ""),
        "priority": body.priority or 0.0,
    }
