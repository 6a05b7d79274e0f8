"""MLC-LLM's own wire form of the microserving calls, so that its router drives these workers as it is.

Bodies are OpenAI completion requests with further fields; a sequence is named by `user`, ranges may
end below zero as in Python, and the receiver's metadata is opaque to the router. Both spellings
that MLC-LLM has published are taken. Everything becomes plan calls; knows no engine.
"""

import base64
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from mserve.runtime import asgi
from mserve.runtime.chunks import DONE, WholeChoice, usage_event, whole_answer
from mserve.runtime.errors import BadRequest, Conflict
from mserve.runtime.messages import (
    Finish,
    FrameDecoder,
    FrameKind,
    PlanCall,
    PrepRecvCall,
    Receiver,
    RemoteSendCall,
    Render,
    StartGenerateCall,
    StepCall,
    decode_finish,
    decode_problem,
)
from mserve.runtime.worker.calls import packed, parse
from mserve.runtime.worker.mlc_bodies import (
    Completion,
    Metadata,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    either,
    metadata_of,
    opaque,
    position_in,
    sequence_of,
)

MAX_TICKETS = 4096  # between a prep_recv and its start_generate
JSON = "application/json"


RunPlan = Callable[[PlanCall], AsyncGenerator[bytes, None]]
Prepare = Callable[[PlanCall], Awaitable[int]]
Encode = Callable[[str], list[int]]
Body = TypeVar("Body", bound=Completion)


class MlcCalls:
    """The endpoints. `prepare` submits a plan call under a lease and says how many of its tokens are
    cached here; `run_plan` gives the frames of one; `identity` names this worker as a receiver."""

    def __init__(
        self,
        prepare: Prepare,
        run_plan: RunPlan,
        encode: Encode,
        identity: Receiver,
        max_model_len: int,
        max_body_bytes: int = 16 << 20,
    ) -> None:
        self._prepare = prepare
        self._run_plan = run_plan
        self._encode = encode
        self._identity = identity
        self._max_model_len = max_model_len
        self._max_body_bytes = max_body_bytes
        self._tickets: OrderedDict[str, str] = OrderedDict()  # by sequence

    def handlers(self) -> dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]]:
        return {
            "/microserving/prep_recv": self.prep_recv,
            "/microserving/remote_send": self.remote_send,
            "/microserving/start_generate": self.start_generate,
            "/v1/completions": self.completion,
        }

    async def prep_recv(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, tokens = await self._read(receive, PrepRecv)
        user = sequence_of(body)
        end = position_in(either(body, "end", "kv_window_end"), len(tokens))
        ticket = f"{user}.kv"
        if ticket == self._tickets.get(user):
            raise Conflict(f"Sequence {user} is being received already.", param="user")
        step = PrepRecvCall("prep_recv", 0, end, ticket)
        matched = await self._prepare(_plan_call(user, tokens, step)) if end else 0
        receiver = None
        if end:
            self._remember(user, ticket)
            receiver = msgspec.structs.replace(self._identity, ticket=ticket)
        answer = {
            "prompt_length": len(tokens),
            # One below: a router sends nothing for a range that is matched whole, and the ticket
            # would wait for it.
            "prefix_matched_length": max(0, min(matched, end - 1)),
            "kv_append_metadata": opaque(Metadata(end, receiver)),
        }
        await asgi.respond_json(send, answer)

    async def remote_send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers `{}` when everything has arrived."""
        body, tokens = await self._read(receive, RemoteSend)
        user = sequence_of(body)
        metadata = metadata_of(either(body, "kv_addr_info", "kv_append_metadata"))
        end = position_in(either(body, "end", "kv_window_end"), len(tokens))
        if end != metadata.end:
            raise BadRequest(
                f"The receiver has prepared [0, {metadata.end}), but the send ends at {end}; one "
                "send must bring all of it.",
                param="end",
            )
        to = () if metadata.receiver is None else (metadata.receiver,)
        call = _plan_call(user, tokens, RemoteSendCall("remote_send", 0, end, to))
        async with asgi.cancelled_by_disconnect(receive):
            async for _ in self._answers(call):
                pass
            await asgi.respond_json(send, {})

    async def start_generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, tokens = await self._read(receive, StartGenerate)
        user = sequence_of(body)
        begin = position_in(either(body, "begin", "kv_window_begin"), len(tokens))
        ticket = self._tickets.pop(user, None)
        uses = () if ticket is None else (ticket,)
        await self._generate(body, user, tokens, min(begin, len(tokens) - 1), uses, receive, send)

    async def completion(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A whole request, as MLC-LLM's router sends them round robin."""
        body, tokens = await self._read(receive, Completion)
        user = body.user or base64.b16encode(packed(tokens)[-16:]).decode()
        await self._generate(body, user, tokens, 0, (), receive, send)

    # --- inside --------------------------------------------------------------------------------

    async def _generate(
        self,
        body: Completion,
        user: str,
        tokens: list[int],
        begin: int,
        uses: tuple[str, ...],
        receive: Receive,
        send: Send,
    ) -> None:
        room = self._max_model_len - len(tokens)
        sampling = body.sampling(min(body.max_tokens or room, max(1, room)))
        kind: Literal["completion", "text"] = "completion" if body.stream else "text"
        render = Render(kind, id=f"cmpl-{user}", model=body.model or "")
        step = StartGenerateCall("start_generate", begin, sampling, render, uses)
        async with asgi.cancelled_by_disconnect(receive):
            answers = self._answers(_plan_call(user, tokens, step))
            if body.stream:
                await _stream(answers, render, send, body.stream_options or {})
            else:
                await _respond_whole(answers, render, send)

    async def _answers(self, call: PlanCall) -> AsyncGenerator[bytes | Finish, None]:
        """Payloads as they come, then the finish. Raises what the worker refuses or fails with."""
        decoder = FrameDecoder()
        async with aclosing(self._run_plan(call)) as parts:
            async for part in parts:
                for frame in decoder.feed(part):
                    if frame.kind is FrameKind.PROBLEM:
                        raise decode_problem(frame.payload).error()
                    if frame.kind is FrameKind.TOKENS and frame.payload:
                        yield frame.payload
                    elif frame.kind is FrameKind.FINISH:
                        yield decode_finish(frame.payload)

    async def _read(self, receive: Receive, cls: type[Body]) -> tuple[Body, list[int]]:
        body = parse(await asgi.read_body(receive, self._max_body_bytes), JSON, cls)
        body.refuse_unsupported()
        tokens = self._encode(body.prompt) if isinstance(body.prompt, str) else body.prompt
        if not tokens:
            raise BadRequest("The prompt is empty.", param="prompt")
        return body, tokens

    def _remember(self, user: str, ticket: str) -> None:
        self._tickets[user] = ticket
        if len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)


async def _stream(
    answers: AsyncGenerator[bytes | Finish, None],
    render: Render,
    send: Send,
    options: dict[str, Any],
) -> None:
    started = False
    async with aclosing(answers):
        async for answer in answers:
            if not started:
                started = True
                await asgi.start(send, 200, b"text/event-stream")
            if isinstance(answer, bytes):
                await asgi.write(send, answer)
            elif options.get("include_usage"):
                await asgi.write(send, usage_event(render, answer))
    await asgi.write(send, DONE, more=False)


async def _respond_whole(
    answers: AsyncGenerator[bytes | Finish, None], render: Render, send: Send
) -> None:
    parts: list[bytes] = []
    async with aclosing(answers):
        async for answer in answers:
            if isinstance(answer, bytes):
                parts.append(answer)
            else:
                text = b"".join(parts).decode()
                await asgi.respond(
                    send,
                    200,
                    whole_answer(render, [WholeChoice(text, answer.reason)], answer, chat=False),
                )


def _plan_call(user: str, tokens: list[int], step: StepCall) -> PlanCall:
    return PlanCall(plan_id=f"mlc-{user}", tokens=packed(tokens), steps=(step,))
