"""A real router in front of workers that answer at once; for bench/router_overhead.py and slow_readers.py.

Two processes: mock workers (8 of them behind one event loop) and the router with the small model's
tokenizer. Who asks them is the caller's affair.
"""

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import httptools
import uvloop

from mserve.runtime import http_server
from mserve.runtime.chunks import chunk
from mserve.runtime.cli.strategies import servable
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import KvLayout, WorkerInfo, WorkerStats
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.registry import MemoryRegistry
from mserve.runtime.config import AdmissionOptions, shipped_model
from mserve.runtime.cost import CostProfile
from mserve.runtime.messages import (
    Finish,
    FrameKind,
    PlanCall,
    StartGenerateCall,
    StepReport,
    decode_plan_call,
    encode,
    encode_frame,
    pack_tokens,
)
from mserve.runtime.router.app import create_router, serve_router
from mserve.runtime.router.client import HttpClient
from mserve.runtime.tokenizer import Tokenizer

NUM_WORKERS = 8
ANSWER_TOKENS = 16  # longer answers are streamed
TOKEN = pack_tokens([77])
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
COST = CostProfile(0.001, 1e-5, 0.0, 0.01, 1e-4, 0.0, 1e9, 1024)
LAYOUT = KvLayout(model="mock", weights="w", dtype="float32", num_layers=4, kv_heads=2, head_dim=64)


@dataclass(frozen=True, slots=True)
class MockCluster:
    """`url` is the router's."""

    url: str
    worker_urls: list[str]
    router_pid: int
    _router: Connection

    def router_cpu_s(self) -> float:
        """That the router has used so far."""
        self._router.send("cpu")
        seconds: float = self._router.recv()
        return seconds


@contextmanager
def mock_cluster(strategy: str, max_requests: int = 4096) -> Iterator[MockCluster]:
    """`strategy` is a shipped one that sends whole requests to one pool."""
    context = multiprocessing.get_context("spawn")
    workers, workers_end = context.Pipe()
    context.Process(target=_run_workers, args=(workers_end,), daemon=True).start()
    urls = workers.recv()
    router, router_end = context.Pipe()
    arguments = (router_end, urls, strategy, max_requests)
    process: Any = context.Process(target=_run_router, args=arguments, daemon=True)
    process.start()
    url = router.recv()
    try:
        yield MockCluster(url, urls, process.pid, router)
    finally:
        router.send("stop")
        workers.send("stop")


# --- workers that answer at once -------------------------------------------------------------------


class MockWorker(asyncio.Protocol):
    """One connection. Short answers go out whole, long ones a token at a time, as engines make them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser: Any = httptools.HttpRequestParser(self)
        self._body = bytearray()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        call = decode_plan_call(bytes(self._body))
        self._body.clear()
        step = call.steps[-1]
        assert isinstance(step, StartGenerateCall), "the strategy must send whole requests"
        self._transport.write(HEAD + chunked(report(step.step, "running")))
        if step.sampling.max_tokens <= ANSWER_TOKENS:
            frames = [token_frame(step, number) for number in range(step.sampling.max_tokens)]
            self._transport.write(chunked(b"".join(frames)))
            self._end(call, step)
        else:
            self._stream(call, step, 0)

    def _stream(self, call: PlanCall, step: StartGenerateCall, number: int) -> None:
        if self._transport.is_closing():
            return
        if number == step.sampling.max_tokens:
            self._end(call, step)
            return
        self._transport.write(chunked(token_frame(step, number)))
        asyncio.get_running_loop().call_soon(self._stream, call, step, number + 1)

    def _end(self, call: PlanCall, step: StartGenerateCall) -> None:
        count = step.sampling.max_tokens
        finish = Finish("length", len(call.tokens) // 4, count, 0)
        last = encode_frame(FrameKind.FINISH, encode(finish)) + report(step.step, "done")
        self._transport.write(chunked(last) + END)


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def report(step: str, state: Any) -> bytes:
    now = time.time()
    return encode_frame(FrameKind.STEP, encode(StepReport(step, state, now, now)))


def token_frame(step: StartGenerateCall, number: int) -> bytes:
    reason = "length" if number + 1 == step.sampling.max_tokens else None
    payload = chunk(step.render, " harbour", reason, first=number == 0)
    return encode_frame(FrameKind.TOKENS, payload, TOKEN)


def _run_workers(pipe: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listeners = [http_server.bind("127.0.0.1", 0) for _ in range(NUM_WORKERS)]
        for listener in listeners:
            await loop.create_server(MockWorker, sock=listener)
        pipe.send([http_server.url_of(listener) for listener in listeners])
        await loop.run_in_executor(None, pipe.recv)

    uvloop.run(main())


# --- the router ------------------------------------------------------------------------------------


def _run_router(pipe: Connection, urls: list[str], strategy: str, max_requests: int) -> None:
    async def main() -> None:
        compiled = servable(strategy)
        assert compiled is not None, "it ships"
        (pool,) = compiled.pools
        clock = LoopClock()
        registry = MemoryRegistry(clock, timeout_s=1e9)
        for number, url in enumerate(urls):
            info = worker_info(number, url, pool.name)
            await registry.announce(info)
            stats = WorkerStats(kv_total_tokens=1 << 24)
            await registry.heartbeat(info.name, info.incarnation, stats)
        router = create_router(
            compiled,
            registry,
            MemoryPrefixIndex(),
            HttpClient(),
            Tokenizer.load(shipped_model()),
            "mock",
            clock=clock,
            admission=AdmissionOptions(max_requests),
        )
        listener = http_server.bind("127.0.0.1", 0)
        server = asyncio.create_task(serve_router(router, listener))
        await router.fleet.changed()
        pipe.send(http_server.url_of(listener))
        await answer_cpu_times(pipe)
        server.cancel()

    uvloop.run(main())


def worker_info(number: int, url: str, pool: str) -> WorkerInfo:
    return WorkerInfo(
        name=f"{pool}-{number}",
        pool=pool,
        incarnation=f"mock-{number}",
        url=url,
        transport_address=b"mock",
        layout=LAYOUT,
        page_size=16,
        num_pages=1 << 20,
        block_tokens=16,
        max_model_len=4096,
        cost=COST,
    )


async def answer_cpu_times(pipe: Connection) -> None:
    """Says how many CPU seconds this process has used, whenever asked, until told to stop."""
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, pipe.recv) != "stop":
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(usage.ru_utime + usage.ru_stime)
