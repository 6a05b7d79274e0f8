"""Clients that ask a router, or a worker straight, over kept connections; for bench/router_overhead.py.

Owns what is sent and when; knows neither the cluster nor what becomes of the times.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import msgspec

from mock_cluster import ANSWER_TOKENS
from mserve.runtime.messages import (
    PlanCall,
    Render,
    Sampling,
    StartGenerateCall,
    encode,
    pack_tokens,
)
from mserve.runtime.router.client import PLAN_PATH

PROMPT = "The ship had left the harbour before dawn, and nobody saw which way it went. " * 8


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


def post(url: str, path: str, body: bytes, content_type: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: {url.removeprefix('http://')}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


class Client(asyncio.Protocol):
    """One kept connection; a request at a time; counts what comes back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser: Any = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None
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
        self.events += data.count(b"data: {")

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200, "the server refused a request of this bench"
        assert self._done is not None, "an answer came without a request"
        self._done.set_result(None)


@dataclass(frozen=True, slots=True)
class Load:
    """What clients saw: of every request how long it took, events in all, and the time in all."""

    times_s: list[float]
    events: int
    took_s: float

    @property
    def requests_per_s(self) -> float:
        return len(self.times_s) / self.took_s


async def closed_loop(side: Side, num_clients: int, duration_s: float) -> Load:
    """Every client asks again at once."""
    times: list[float] = []
    clients = await _connect(side, num_clients)
    began = time.perf_counter()

    async def ask(client: Client, url: str) -> None:
        while time.perf_counter() - began < duration_s:
            times.append(await client.ask(side.request(url)))
        client.close()

    await asyncio.gather(*(ask(*client) for client in clients))
    took_s = time.perf_counter() - began
    return Load(times, sum(client.events for client, _ in clients), took_s)


async def open_loop(side: Side, rate: float, duration_s: float) -> list[float]:
    """Requests at a steady rate, whether or not earlier ones are done; their times in seconds."""
    times: list[float] = []
    idle = await _connect(side, 64)
    running: set[asyncio.Task[None]] = set()
    began = time.perf_counter()

    async def ask() -> None:
        client, url = idle.pop() if idle else (await _connect(side, 1))[0]
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


async def _connect(side: Side, count: int) -> list[tuple[Client, str]]:
    urls = [side.urls[number % len(side.urls)] for number in range(count)]
    return [(await Client.connect(url), url) for url in urls]
