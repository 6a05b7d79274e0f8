"""The HTTP client against servers made of bytes: whole answers, cut ones, refusals, old connections."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from mserve.runtime.errors import Conflict, EngineFailure, NoRoom, Unreachable, WorkerLost
from mserve.runtime.messages import Frame, FrameKind, PlanCall, decode_plan_call, encode_frame
from mserve.runtime.router.client import HttpClient, merge_tokens

CALL = PlanCall(plan_id="p", tokens=b"\1\0\0\0", steps=())
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frames_of(*texts: bytes) -> bytes:
    return b"".join(encode_frame(FrameKind.TOKENS, text, b"\1\0\0\0") for text in texts)


class Server:
    """Answers every request on every connection by `answer`; counts both."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.listener: asyncio.Server | None = None
        self.num_connections = 0
        self.bodies: list[bytes] = []
        self.closed = asyncio.Event()  # a client has closed a connection

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].split("\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                await self._answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()


def run(kit: Any, answer: Answer, use: Callable[[Any, Any, Server], Awaitable[Any]]) -> Any:
    """Runs `use(client, worker, server)`."""

    async def main() -> Any:
        server = Server(answer)
        listener = server.listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        info = kit.cluster("workers-0").workers["workers-0"].info
        info = msgspec.structs.replace(info, url=f"http://127.0.0.1:{port}")
        client = HttpClient()
        async with listener:
            try:
                return await use(client, info, server)
            finally:
                await client.close()
                listener.close()
                await asyncio.sleep(0)

    return asyncio.run(main())


async def texts(client: HttpClient, worker: Any) -> list[bytes]:
    return [frame.payload async for frame in client.execute(worker, CALL)]


def test_frames_come_through_and_the_connection_is_kept(kit: Any) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        data = frames_of(b"one", b"two")
        writer.write(HEAD + chunked(data[:7]))  # a frame cut by chunks
        await asyncio.sleep(0.01)
        writer.write(chunked(data[7:]) + END)

    async def use(client: HttpClient, worker: Any, server: Server) -> Any:
        got = [await texts(client, worker) for _ in range(3)]
        return got, server.num_connections, server.bodies

    got, num_connections, bodies = run(kit, answer, use)
    assert [b"".join(each) for each in got] == [b"onetwo"] * 3
    assert num_connections == 1
    assert decode_plan_call(bodies[0]) == CALL


def test_tokens_that_arrived_together_become_one_frame() -> None:
    def frame(text: bytes) -> Frame:
        return Frame(FrameKind.TOKENS, text[:4], text)

    step, finish = Frame(FrameKind.STEP, payload=b"s"), Frame(FrameKind.FINISH, payload=b"f")
    one, two, three = frame(b"one."), frame(b"two."), frame(b"three.")
    merged = merge_tokens([step, one, two, finish, three])
    both = Frame(FrameKind.TOKENS, b"one.two.", b"one.two.")
    assert merged == [step, both, finish, three]


def test_closing_the_iterator_closes_the_connection(kit: Any) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        writer.write(HEAD + chunked(frames_of(b"one")))

    async def use(client: HttpClient, worker: Any, server: Server) -> None:
        async with aclosing(client.execute(worker, CALL)) as frames:
            async for frame in frames:
                assert frame.payload == b"one"
                break
        await asyncio.wait_for(server.closed.wait(), 1)

    run(kit, answer, use)


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (HEAD + chunked(frames_of(b"one")), "closed the connection"),
        (HEAD + chunked(frames_of(b"one") + frames_of(b"two")[:9]) + END, "middle of a frame"),
        (HEAD + chunked(b"\xff" * 64) + END, "not HTTP with frames"),
        (b"SMTP ready\r\n", "not HTTP with frames"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_what_breaks_off_is_a_lost_worker_by_name(kit: Any, cut: bytes, says: str) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        writer.write(cut)
        raise ConnectionError

    async def use(client: HttpClient, worker: Any, server: Server) -> None:
        await texts(client, worker)

    with pytest.raises(WorkerLost, match=f"worker workers-0 at .* is lost: .*{says}"):
        run(kit, answer, use)


def test_a_connection_that_is_taken_and_breaks_may_have_begun_work(kit: Any) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        raise ConnectionError

    async def use(client: HttpClient, worker: Any, server: Server) -> None:
        await texts(client, worker)

    with pytest.raises(WorkerLost) as lost:
        run(kit, answer, use)
    assert not isinstance(lost.value, Unreachable)


def test_nobody_there_cannot_be_reached(kit: Any) -> None:
    async def main() -> None:
        info = kit.cluster("workers-0").workers["workers-0"].info
        info = msgspec.structs.replace(info, url="http://127.0.0.1:1")
        await texts(HttpClient(), info)

    with pytest.raises(Unreachable, match="workers-0"):
        asyncio.run(main())


def test_a_kept_connection_that_was_closed_is_replaced_once(kit: Any) -> None:
    count = 0

    async def answer(reader: Any, writer: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise ConnectionError  # closes a kept connection without a byte
        writer.write(HEAD + chunked(frames_of(b"one")) + END)

    async def use(client: HttpClient, worker: Any, server: Server) -> Any:
        return [await texts(client, worker) for _ in range(2)], server.num_connections

    assert run(kit, answer, use) == ([[b"one"]] * 2, 2)
    assert count == 3


def test_a_worker_that_ends_of_a_call_on_a_kept_connection_may_have_begun_work(kit: Any) -> None:
    count = 0

    async def answer(reader: Any, writer: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise ConnectionError  # it took the call, and ends
        writer.write(HEAD + chunked(frames_of(b"one")) + END)

    async def use(client: HttpClient, worker: Any, server: Server) -> None:
        await texts(client, worker)
        assert server.listener is not None
        server.listener.close()
        await texts(client, worker)

    with pytest.raises(WorkerLost, match="is lost") as lost:
        run(kit, answer, use)
    assert not isinstance(lost.value, Unreachable)
    assert count == 2


@pytest.mark.parametrize(
    ("status", "body", "expected", "detail"),
    [
        (429, {"type": "overloaded_error", "detail": "full", "retryable": True}, NoRoom, "full"),
        (409, {"type": "about:blank", "title": "Conflict"}, Conflict, "Conflict"),
        (500, "not JSON", EngineFailure, "worker workers-0 answered 500 without a reason"),
        (418, {}, EngineFailure, "worker workers-0 answered 418"),
    ],
)
def test_a_refusal_is_the_workers_own_error(
    kit: Any, status: int, body: Any, expected: type[Exception], detail: str
) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        content = msgspec.json.encode(body) if isinstance(body, dict) else body.encode()
        head = f"HTTP/1.1 {status} No\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)

    async def use(client: HttpClient, worker: Any, server: Server) -> Any:
        for _ in range(2):
            with pytest.raises(expected, match=detail):
                await texts(client, worker)
        return server.num_connections

    assert run(kit, answer, use) == 1


def test_a_slow_reader_stops_the_socket(kit: Any) -> None:
    """What is not read stays with the worker: its writes stop getting through."""
    sent = 0

    async def answer(reader: Any, writer: Any) -> None:
        nonlocal sent
        writer.write(HEAD)
        for _ in range(2000):
            writer.write(chunked(frames_of(b"x" * 60_000)))
            await writer.drain()
            sent += 1
        writer.write(END)

    async def use(client: HttpClient, worker: Any, server: Server) -> int:
        async with aclosing(client.execute(worker, CALL)) as frames:
            async for _ in frames:
                before = -1
                while before != sent:  # until it stands still
                    before = sent
                    await asyncio.sleep(0.05)
                return sent
        return -1

    assert 0 < run(kit, answer, use) < 1900
