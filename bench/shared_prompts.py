"""Traffic whose prompts share beginnings, as Preble's workloads do, and its clients; for bench/scheduling.py.

Lengths are scaled down to what a small model's context holds.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from mserve.runtime.traffic.arrivals import Arrival
from mserve.runtime.traffic.workloads import PREBLE, SharedWorkload, Spread, poisson, sharing

BLOCK_TOKENS = 16
ZIPF = 1.0
MOST_OUTPUT = 150  # tokens: one answer must not outlast the run
IN_FLIGHT = 48  # while capacity is measured
VOCABULARY = range(100, 2000)


@dataclass(frozen=True, slots=True)
class Workload:
    """One of Preble's, with lengths times `scale` and groups of `group` requests on average. Root, key
    and own portions stay: fewer requests in a group mean that less of a run is shared."""

    of: str
    scale: float
    group: float

    @property
    def scaled(self) -> SharedWorkload:
        whole = PREBLE[self.of]
        return replace(
            whole,
            prompt=times(whole.prompt, self.scale),
            output=times(whole.output, self.scale),
            shared=whole.root_portion + whole.key_portion * (1 - 1 / self.group),
            group=Spread(self.group),
        )


WORKLOADS: Mapping[str, Workload | None] = {
    "toolbench": Workload("toolbench", 0.35, 10),
    "embodied-agent": Workload("embodied-agent", 0.3, 12),
    "programming": Workload("programming", 0.2, 20),
    "video-qa": Workload("video-qa", 0.08, 8.6),
    "loogle": Workload("loogle", 0.04, 18),
    "unshared": None,
}


def times(spread: Spread, factor: float) -> Spread:
    return Spread(max(1.0, spread.mean * factor), spread.deviation * factor)


def traffic(name: str, *, rate: float, num: int, seed: int) -> list[Arrival]:
    workload = WORKLOADS[name]
    if workload is None:
        made = poisson(
            rate=rate, num_prompt=640, num_output=15, num=num, seed=seed, block_tokens=BLOCK_TOKENS
        )
    else:
        made = sharing(
            workload.scaled, rate=rate, num=num, seed=seed, zipf=ZIPF, block_tokens=BLOCK_TOKENS
        )
    return [replace(each, num_output=min(each.num_output, MOST_OUTPUT)) for each in made]


def prompt_of(arrival: Arrival) -> list[int]:
    """Token ids that are the same where the blocks are."""
    tokens = [
        token
        for block in arrival.blocks
        for token in random.Random(block).choices(VOCABULARY, k=arrival.block_tokens)
    ]
    return tokens[: arrival.num_prompt]


# --- clients ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    latency_s: float
    first_token_s: float
    prompt_tokens: int
    cached_tokens: int


def request_of(url: str, arrival: Arrival, salt: str) -> bytes:
    """`salt` keeps the caches of runs apart."""
    body = {
        "model": "tiny",
        "prompt": prompt_of(arrival),
        "max_tokens": arrival.num_output,
        "temperature": 0,
        "ignore_eos": True,
        "cache_salt": salt,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
    head += "content-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def ask(url: str, request: bytes) -> Answer:
    """A streamed answer, read to its end."""
    target = urlsplit(url)
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    try:
        writer.write(request)
        first_s, last = 0.0, b""
        while not (line := await reader.readline()).startswith(b"data: [DONE]"):
            if not line:
                raise RuntimeError(f"an answer broke off: {last.decode()}")
            if line.startswith(b"data: "):
                first_s = first_s or time.perf_counter()
            last = line if line.startswith((b"data: ", b"HTTP", b"{")) else last
        usage = json.loads(last.removeprefix(b"data: "))["usage"]
    finally:
        writer.close()
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    ended_s = time.perf_counter()
    return Answer(ended_s - began_s, first_s - began_s, usage["prompt_tokens"], cached)


async def open_loop(url: str, arrivals: Sequence[Arrival], salt: str) -> list[Answer]:
    """Each request at its time, whatever became of those before; answers in that order."""
    requests = [request_of(url, arrival, salt) for arrival in arrivals]
    begin_s = time.perf_counter()

    async def later(arrival: Arrival, request: bytes) -> Answer:
        await asyncio.sleep(begin_s + arrival.at_s - time.perf_counter())
        return await ask(url, request)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(later(arrival, request))
            for arrival, request in zip(arrivals, requests, strict=True)
        ]
    return [task.result() for task in tasks]


async def capacity(url: str, name: str, num: int) -> float:
    """Requests/s with always `IN_FLIGHT` of them under way."""
    arrivals = traffic(name, rate=1.0, num=num, seed=-1)
    waiting = iter([request_of(url, arrival, "capacity") for arrival in arrivals])

    async def client() -> None:
        for request in waiting:
            await ask(url, request)

    begin_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(client())
    return num / (time.perf_counter() - begin_s)
