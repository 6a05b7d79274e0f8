"""What does the router add to a request? Against calling the worker straight, in one run.

    python bench/router_overhead.py [--strategy NAME] [--duration S] [--json FILE]

Three processes: mock workers that answer plan calls at once (8 of them behind one event loop), the
router with the small model's tokenizer, and this one with the clients. Straight to the worker means
the same plan call by the same client code, without HTTP parsing of OpenAI bodies, tokenizing,
deciding and relaying; rounds alternate. Added latency is the difference of the percentiles.
Bars: p50 at most 1 ms and p99 at most 10 ms at 500 requests/s; 50,000 streamed tokens/s per core.
"""

import argparse
import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httptools
import msgspec
import uvloop

from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_bytes
from mserve.runtime import http_server
from mserve.runtime.chunks import chunk
from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.membership import KvLayout, WorkerInfo, WorkerStats
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.cluster.registry import MemoryRegistry
from mserve.runtime.config import AdmissionOptions
from mserve.runtime.cost import CostProfile
from mserve.runtime.messages import (
    Finish,
    FrameKind,
    PlanCall,
    Render,
    Sampling,
    StartGenerateCall,
    StepReport,
    decode_plan_call,
    encode,
    encode_frame,
    pack_tokens,
)
from mserve.runtime.router.app import create_router, serve_router
from mserve.runtime.router.client import PLAN_PATH, HttpClient
from mserve.runtime.tokenizer import Tokenizer
from record import write_record

NUM_WORKERS = 8
PROMPT = "The ship had left the harbour before dawn, and nobody saw which way it went. " * 8
ANSWER_TOKENS = 16
STREAM_TOKENS = 512
TOKEN = pack_tokens([77])
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
COST = CostProfile(0.001, 1e-5, 0.0, 0.01, 1e-4, 0.0, 1e9, 1024)
LAYOUT = KvLayout(model="mock", weights="w", dtype="float32", num_layers=4, kv_heads=2, head_dim=64)


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


def run_workers(pipe: Connection) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listeners = [http_server.bind("127.0.0.1", 0) for _ in range(NUM_WORKERS)]
        for listener in listeners:
            await loop.create_server(MockWorker, sock=listener)
        pipe.send([http_server.url_of(listener) for listener in listeners])
        await loop.run_in_executor(None, pipe.recv)

    uvloop.run(main())


# --- the router ------------------------------------------------------------------------------------


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


def run_router(
    pipe: Connection, urls: list[str], strategy_name: str, max_requests: int = 4096
) -> None:
    async def main() -> None:
        source = (files("mserve.strategies") / f"{strategy_name}.mserve").read_bytes()
        strategy = compile_strategy(check_bytes(source, strategy_name))
        (pool,) = strategy.pools
        clock, client = LoopClock(), HttpClient()
        registry = MemoryRegistry(clock, timeout_s=1e9)
        for number, url in enumerate(urls):
            await registry.announce(worker_info(number, url, pool.name))
            stats = WorkerStats(kv_total_tokens=1 << 24)
            await registry.heartbeat(f"{pool.name}-{number}", f"mock-{number}", stats)
        tokenizer = Tokenizer.load(Path(str(files("mserve") / "model")))
        router = create_router(
            strategy,
            registry,
            MemoryPrefixIndex(),
            client,
            tokenizer,
            "mock",
            clock=clock,
            admission=AdmissionOptions(max_requests),
        )
        listener = http_server.bind("127.0.0.1", 0)
        server = asyncio.create_task(serve_router(router, listener))
        await router.fleet.changed()
        pipe.send((http_server.url_of(listener), len(tokenizer.encode(PROMPT))))
        await answer_cpu_times(pipe)
        server.cancel()

    uvloop.run(main())


async def answer_cpu_times(pipe: Connection) -> None:
    """Says how many CPU seconds this process has used, whenever asked, until told to stop."""
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, pipe.recv) != "stop":
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(usage.ru_utime + usage.ru_stime)


# --- clients ---------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One kept connection; a request at a time; counts what comes back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser: Any = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None
        self.num_bytes = 0
        self.events = 0

    @classmethod
    async def connect(cls, url: str) -> "Client":
        host, _, port = url.removeprefix("http://").partition(":")
        _, client = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return client

    async def ask(self, request: bytes) -> float:
        """Seconds until the answer is whole."""
        self._done = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(request)
        await self._done
        return time.perf_counter() - began

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.num_bytes += len(data)
        self.events += data.count(b"data: {")

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200, "the server refused a request of this bench"
        assert self._done is not None, "an answer came without a request"
        self._done.set_result(None)


def post(url: str, path: str, body: bytes, content_type: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: {url.removeprefix('http://')}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


@dataclass(frozen=True, slots=True)
class Side:
    """Where requests go, and a function that makes the next one."""

    name: str
    urls: list[str]
    request: Callable[[str], bytes]


def straight(urls: list[str], num_prompt: int) -> Side:
    """Plan calls as the router makes them; every one has an id of its own."""
    tokens = pack_tokens([7] * num_prompt)
    numbers = iter(range(1 << 60))
    sampling, render = Sampling(ANSWER_TOKENS), Render("completion", "id", 0, "mock")

    def request(url: str) -> bytes:
        steps = (StartGenerateCall("s1", 0, sampling, render),)
        body = encode(PlanCall(plan_id=f"{next(numbers):032x}", tokens=tokens, steps=steps))
        return post(url, PLAN_PATH, body, "application/msgpack")

    return Side("straight", urls, request)


def through_router(url: str, max_tokens: int) -> Side:
    fields = {"model": "mock", "prompt": PROMPT, "max_tokens": max_tokens, "stream": True}
    whole = post(url, "/v1/completions", msgspec.json.encode(fields), "application/json")
    return Side("router", [url], lambda url: whole)


# --- measurements ----------------------------------------------------------------------------------


def percentile_ms(times: list[float], share: float) -> float:
    return 1e3 * sorted(times)[min(len(times) - 1, int(share * len(times)))]


async def connect(side: Side, count: int) -> list[tuple[Client, str]]:
    urls = [side.urls[number % len(side.urls)] for number in range(count)]
    return [(await Client.connect(url), url) for url in urls]


async def closed_loop(side: Side, num_clients: int, duration_s: float) -> tuple[list[float], float]:
    """Every client asks again at once; (latencies, requests per second)."""
    times: list[float] = []
    clients = await connect(side, num_clients)
    began = time.perf_counter()

    async def ask(client: Client, url: str) -> None:
        while time.perf_counter() - began < duration_s:
            times.append(await client.ask(side.request(url)))
        client.close()

    await asyncio.gather(*(ask(*client) for client in clients))
    return times, len(times) / (time.perf_counter() - began)


async def open_loop(side: Side, rate: float, duration_s: float) -> list[float]:
    """Requests at a steady rate, whether or not earlier ones are done."""
    times: list[float] = []
    idle = await connect(side, 64)
    running: set[asyncio.Task[None]] = set()
    began = time.perf_counter()

    async def ask() -> None:
        client, url = idle.pop() if idle else (await connect(side, 1))[0]
        times.append(await client.ask(side.request(url)))
        idle.append((client, url))

    for number in range(int(rate * duration_s)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask())
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    for client, _ in idle:
        client.close()
    return times


async def alternate(
    sides: tuple[Side, Side], measure: Callable[[Side], Any], rounds: int
) -> tuple[list[Any], list[Any]]:
    results: tuple[list[Any], list[Any]] = ([], [])
    for _ in range(rounds):
        for side, found in zip(sides, results, strict=True):
            found.append(await measure(side))
    return results


def latency_row(name: str, straight_s: list[float], router_s: list[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"what": name}
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        row[f"straight_{label}_ms"] = round(percentile_ms(straight_s, share), 3)
        row[f"router_{label}_ms"] = round(percentile_ms(router_s, share), 3)
        added = row[f"router_{label}_ms"] - row[f"straight_{label}_ms"]
        row[f"added_{label}_ms"] = round(added, 3)
    return row


async def measure_latency(
    sides: tuple[Side, Side], pipe: Connection, duration_s: float, rounds: int = 3
) -> list[dict[str, Any]]:
    rows = []
    for num_clients in (1, 16, 64):

        async def closed(side: Side, num_clients: int = num_clients) -> Any:
            return await closed_loop(side, num_clients, duration_s / rounds)

        cpu_began = cpu_seconds(pipe)
        found = await alternate(sides, closed, rounds)
        cpu = cpu_seconds(pipe) - cpu_began
        times = [[t for times, _ in each for t in times] for each in found]
        row = latency_row(f"{num_clients} clients", times[0], times[1])
        for side, each in zip(sides, found, strict=True):
            row[f"{side.name}_requests_per_s"] = round(sorted(r for _, r in each)[rounds // 2])
        row["router_cpu_us_per_request"] = round(1e6 * cpu / len(times[1]))
        rows.append(row)

    async def steady(side: Side) -> list[float]:
        return await open_loop(side, 500, duration_s / rounds)

    found = await alternate(sides, steady, rounds)
    straight_s, router_s = [[time_s for times in each for time_s in times] for each in found]
    rows.append(latency_row("500 requests/s", straight_s, router_s))
    return rows


async def measure_streams(url: str, pipe: Connection, duration_s: float) -> dict[str, Any]:
    """Tokens relayed one event each, over 64 streams, per second and per CPU second of the router."""
    side = through_router(url, STREAM_TOKENS)
    clients = await connect(side, 64)
    cpu_began, began = cpu_seconds(pipe), time.perf_counter()

    async def ask(client: Client, url: str) -> None:
        while time.perf_counter() - began < duration_s:
            await client.ask(side.request(url))
        client.close()

    await asyncio.gather(*(ask(*client) for client in clients))
    took, cpu = time.perf_counter() - began, cpu_seconds(pipe) - cpu_began
    events = sum(client.events for client, _ in clients)
    return {
        "streams": 64,
        "tokens_per_s": round(events / took),
        "tokens_per_router_cpu_s": round(events / cpu),
        "router_cpu_share": round(cpu / took, 2),
    }


def cpu_seconds(pipe: Connection) -> float:
    pipe.send("cpu")
    seconds: float = pipe.recv()
    return seconds


def show(rows: list[dict[str, Any]], streams: dict[str, Any]) -> None:
    print(
        f"{'':16} {'straight p50/p99':>18} {'router p50/p99':>18} {'added p50/p99 ms':>18}  req/s  CPU us"
    )
    for row in rows:
        cells = [
            f"{row[f'{side}_p50_ms']:.2f} / {row[f'{side}_p99_ms']:.2f}"
            for side in ("straight", "router", "added")
        ]
        rate = row.get("router_requests_per_s", "")
        cpu = row.get("router_cpu_us_per_request", "")
        print(f"{row['what']:16} {cells[0]:>18} {cells[1]:>18} {cells[2]:>18} {rate:>6} {cpu:>7}")
    print(
        f"64 streams: {streams['tokens_per_s']:,} tokens/s relayed, "
        f"{streams['tokens_per_router_cpu_s']:,} per CPU second of the router"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategy", default="least_loaded", help="one that sends whole requests")
    parser.add_argument("--duration", type=float, default=6.0, help="seconds of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    worker_pipe, worker_end = context.Pipe()
    context.Process(target=run_workers, args=(worker_end,), daemon=True).start()
    urls = worker_pipe.recv()
    router_pipe, router_end = context.Pipe()
    arguments = (router_end, urls, options.strategy)
    context.Process(target=run_router, args=arguments, daemon=True).start()
    url, num_prompt = router_pipe.recv()
    sides = (straight(urls, num_prompt), through_router(url, ANSWER_TOKENS))
    rows = uvloop.run(measure_latency(sides, router_pipe, options.duration))
    streams = uvloop.run(measure_streams(url, router_pipe, options.duration))
    show(rows, streams)
    router_pipe.send("stop")
    worker_pipe.send("stop")
    write_record(
        options.json,
        "what the router adds",
        ["mserve", "starlette", "uvicorn", "uvloop"],
        strategy=options.strategy,
        workers=NUM_WORKERS,
        prompt_tokens=num_prompt,
        latency=rows,
        streams=streams,
    )


if __name__ == "__main__":
    main()
