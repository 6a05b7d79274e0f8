"""A worker's HTTP front: the microserving calls, health, metrics. A translator without state.

Every call is an ASGI endpoint that talks to the engine process through EngineLink. A caller's
disconnect cancels what its call started. The calls are those of LLM microserving (section 3).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from mserve.runtime import asgi
from mserve.runtime.errors import BadRequest, NotFound, RequestError
from mserve.runtime.messages import (
    Frame,
    FrameDecoder,
    FrameKind,
    PlanCall,
    Problem,
    decode_finish,
    decode_plan_call,
    decode_problem,
    decode_step_report,
    encode,
    encode_frame,
    unpack_tokens,
)
from mserve.runtime.worker import ipc
from mserve.runtime.worker.answer import MakeDecoder, PlanAnswer
from mserve.runtime.worker.calls import (
    Body,
    CommitBody,
    MatchBody,
    PrepRecvBody,
    RemoteSendBody,
    StartGenerateBody,
    TicketsBody,
    packed,
    parse,
)
from mserve.runtime.worker.engine_link import EngineLink

FRAMES = b"application/vnd.mserve.frames"
MAX_BODY_BYTES = 16 << 20

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class WorkerApp:
    """Endpoints over one engine link. `draining` is set to have the worker finish and leave."""

    def __init__(
        self,
        link: EngineLink,
        name: str,
        identity: dict[str, object],
        make_decoder: MakeDecoder,
        draining: asyncio.Event,
    ) -> None:
        self._link = link
        self._name = name
        self._identity = identity
        self._make_decoder = make_decoder
        self._draining = draining

    def routes(self) -> list[Route]:
        post: dict[str, Handler] = {
            "/v1/microserving/plan": self.plan,
            "/v1/microserving/prep_recv": self.prep_recv,
            "/v1/microserving/remote_send": self.until_done(RemoteSendBody),
            "/v1/microserving/start_generate": self.start_generate,
            "/v1/microserving/commit": self.until_done(CommitBody),
            "/v1/microserving/release": self.release,
            "/v1/microserving/renew": self.renew,
            "/v1/microserving/match": self.match,
            "/drain": self.drain,
        }
        get: dict[str, Handler] = {
            "/health": self.health,
            "/ready": self.ready,
            "/metrics": self.metrics,
            "/v1/microserving/state": self.state,
        }
        return [
            Route(path, Endpoint(handler), methods=[method])
            for method, table in (("POST", post), ("GET", get))
            for path, handler in table.items()
        ]

    # --- plans ---------------------------------------------------------------------------------

    async def plan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """All steps of a plan on this worker; the answer is a stream of frames."""
        body = await asgi.read_body(receive, MAX_BODY_BYTES)
        try:
            call = decode_plan_call(body)
        except msgspec.DecodeError as error:
            raise BadRequest(f"The body is not a plan call: {error}") from None
        async with asgi.cancelled_by_disconnect(receive):
            await self._stream_frames(call, send)

    async def _stream_frames(self, call: PlanCall, send: Send) -> None:
        started = False
        async with aclosing(self.run_plan(call)) as frames:
            async for out in frames:
                if not started:
                    started = True
                    await asgi.start(send, 200, FRAMES)
                if out:
                    await asgi.write(send, out)
        await asgi.write(send, b"", more=False)

    async def run_plan(self, call: PlanCall) -> AsyncGenerator[bytes, None]:
        """Frames as the plan goes on; leaving early cancels the plan here.

        Raises the refusal itself where the engine did not take the call at all.
        """
        answer = PlanAnswer(call, self._make_decoder)
        queue = await self._link.submit(call, held=True)
        try:
            while not answer.is_done:
                events = [await queue.get()]
                while not queue.empty():
                    events.append(queue.get_nowait())
                yield b"".join([answer.frames(event) for event in events if event is not None])
                if None in events:
                    yield self._lost_frame(answer)
                    return
                if answer.stop_found:
                    self._link.send(ipc.StopGenerating(call.key))
        finally:
            self._link.unsubscribe(call.key, queue)
            if not answer.is_done and not self._link.closed.is_set():
                self._link.send(ipc.Cancel(call.key))

    def _lost_frame(self, answer: PlanAnswer) -> bytes:
        """The end of an answer whose engine process is gone or silent, if it has not ended."""
        problem = Problem.of(self._link.lost())
        return b"" if answer.is_done else encode_frame(FrameKind.PROBLEM, encode(problem))

    # --- single calls --------------------------------------------------------------------------

    async def prep_recv(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Registers a ticket under a lease; answers `{ticket, matched}`."""
        body = await self._parse(scope, receive, PrepRecvBody)
        matched = await self.prepare(body.plan_call())
        await asgi.respond_json(send, {"ticket": body.ticket, "matched": matched})

    async def prepare(self, call: PlanCall) -> int:
        """Has the engine take a call whose tickets a lease holds; how many tokens are cached."""
        queue = await self._link.submit(call, held=False)
        self._link.unsubscribe(call.key, queue)
        answer = await self._link.ask_json(lambda n: ipc.Match(n, call.tokens, call.salt))
        matched = answer["matched"]
        assert isinstance(matched, int), "the engine counts what matches"
        return matched

    async def start_generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Server-sent events of token deltas: `{token_ids, text}`, then `{finish_reason, usage}`."""
        body = await self._parse(scope, receive, StartGenerateBody)
        async with asgi.cancelled_by_disconnect(receive):
            await self._stream_deltas(body.plan_call(), send)

    async def _stream_deltas(self, call: PlanCall, send: Send) -> None:
        decoder = FrameDecoder()
        started = False
        async with aclosing(self.run_plan(call)) as frames:
            async for out in frames:
                if not started:
                    started = True
                    await asgi.start(send, 200, b"text/event-stream")
                deltas = [delta for frame in decoder.feed(out) if (delta := _delta(frame))]
                if deltas:
                    await asgi.write(send, b"".join(deltas))
        await asgi.write(send, b"data: [DONE]\n\n", more=False)

    def until_done(self, cls: type[RemoteSendBody] | type[CommitBody]) -> Handler:
        """A call that is answered by its step's report once the step is done."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            body = await self._parse(scope, receive, cls)
            async with asgi.cancelled_by_disconnect(receive):
                await self._respond_report(body.plan_call(), send)

        return handle

    async def _respond_report(self, call: PlanCall, send: Send) -> None:
        decoder = FrameDecoder()
        report: object = None
        async with aclosing(self.run_plan(call)) as frames:
            async for out in frames:
                for frame in decoder.feed(out):
                    if frame.kind is FrameKind.PROBLEM:
                        raise decode_problem(frame.payload).error()
                    report = decode_step_report(frame.payload)
        await asgi.respond_json(send, report)

    async def release(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._parse(scope, receive, TicketsBody)
        answer = await self._link.ask_json(lambda n: ipc.ReleaseTickets(n, body.tickets))
        await self._respond_found(send, body, answer, "released")

    async def renew(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._parse(scope, receive, TicketsBody)
        answer = await self._link.ask_json(lambda n: ipc.Renew(n, body.tickets))
        await self._respond_found(send, body, answer, "renewed")

    async def _respond_found(
        self, send: Send, body: TicketsBody, answer: dict[str, object], field: str
    ) -> None:
        if body.tickets and not answer[field]:
            raise NotFound("None of these tickets is valid at this worker.", param="tickets")
        await asgi.respond_json(send, answer)

    async def match(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`{matched}`: tokens of the longest cached prefix; no side effects."""
        body = await self._parse(scope, receive, MatchBody)
        tokens, salt = packed(body.tokens), body.salt.encode()
        answer = await self._link.ask_json(lambda n: ipc.Match(n, tokens, salt))
        await asgi.respond_json(send, answer)

    # --- the worker itself ---------------------------------------------------------------------

    async def drain(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Takes no new plans from now on; what runs is finished, then the worker leaves and ends."""
        self._draining.set()
        await asgi.respond_json(send, {"draining": True})

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        alive = not self._link.closed.is_set() and not self._link.silence
        await asgi.respond_json(send, {"alive": alive}, 200 if alive else 503)

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        alive = not self._link.closed.is_set() and not self._link.silence
        ready = alive and not self._draining.is_set()
        await asgi.respond_json(send, {"ready": ready, "worker": self._name}, 200 if ready else 503)

    async def state(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._link.ask_json(ipc.State)
        await asgi.respond_json(
            send, {**self._identity, **answer, "calls": self._link.open_calls()}
        )

    async def metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = render_stats(self._name, self._link.stats)
        await asgi.respond(send, 200, text.encode(), b"text/plain; version=0.0.4")

    # --- inside --------------------------------------------------------------------------------

    async def _parse(self, scope: Scope, receive: Receive, cls: type[Body]) -> Body:
        headers = dict(scope["headers"])
        body = await asgi.read_body(receive, MAX_BODY_BYTES)
        return parse(body, headers.get(b"content-type", b"").decode("latin-1"), cls)


def _delta(frame: Frame) -> bytes:
    """A frame as a server-sent event for those who do not speak frames."""
    match frame.kind:
        case FrameKind.TOKENS:
            text = frame.payload.decode()
            body: object = {"token_ids": unpack_tokens(frame.tokens), "text": text}
        case FrameKind.FINISH:
            finish = decode_finish(frame.payload)
            body = {"finish_reason": finish.reason, "usage": finish}
        case FrameKind.PROBLEM:
            body = {"error": decode_problem(frame.payload)}
        case FrameKind.STEP:
            return b""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


class Endpoint:
    """`handler` as an ASGI app, its errors answered: typed ones as problems, a client that left
    not at all. An object, since Starlette takes functions for something else."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._handler(scope, receive, note_start)
        except asgi.ClientGone:
            pass
        except RequestError as error:
            if started:
                raise
            await asgi.respond_problem(send, error)


def render_stats(worker: str, stats: ipc.Stats) -> str:
    """Prometheus text of the engine's latest state."""
    values = msgspec.structs.asdict(stats)
    values = {**msgspec.structs.asdict(values.pop("stats")), **values}
    lines = []
    for name, value in values.items():
        lines.append(f"# TYPE mserve_worker_{name} gauge")
        lines.append(f'mserve_worker_{name}{{worker="{worker}"}} {int(value)}')
    return "\n".join(lines) + "\n"


def create_app(worker: WorkerApp, others: Mapping[str, Handler]) -> Starlette:
    """`others` are further POST endpoints, by path."""
    further = [Route(path, Endpoint(call), methods=["POST"]) for path, call in others.items()]
    return Starlette(routes=[*worker.routes(), *further])
