"""A worker as a process of its own: every call over real HTTP, with a real engine and real UCX."""

import asyncio
import base64
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mserve.runtime.clock import LoopClock
from mserve.runtime.cluster.launch import Child, Supervisor
from mserve.runtime.cluster.redis_server import RedisServer
from mserve.runtime.cluster.registry_redis import RedisRegistry
from mserve.runtime.messages import (
    FrameDecoder,
    FrameKind,
    PlanCall,
    Sampling,
    StartGenerateCall,
    decode_finish,
    encode,
    pack_tokens,
    unpack_tokens,
)

PAGE_SIZES = {"prefill-0": 16, "decode-0": 32}  # KV moves between pages of different sizes
PROMPT = [11 + (13 * i) % 1900 for i in range(300)]


@dataclass
class Process:
    """A running worker, asked as a client would."""

    url: str
    pid: int

    def ask(self, method: str, path: str, body: Any = None, raw: bytes = b"") -> tuple[int, Any]:
        with closing(http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)) as line:
            data = raw or (b"" if body is None else json.dumps(body).encode())
            line.request(method, path, data, {"content-type": "application/json"})
            response = line.getresponse()
            text = response.read()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, json.loads(text) if is_json else text.decode()

    def post(self, call: str, **body: Any) -> tuple[int, Any]:
        return self.ask("POST", f"/v1/microserving/{call}", body)

    def events(self, **body: Any) -> list[Any]:
        status, text = self.post("start_generate", **body)
        assert status == 200, text
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    def tokens(self, **body: Any) -> list[int]:
        events = self.events(**body)
        return [token for event in events for token in event.get("token_ids", ())]

    def state(self) -> Any:
        return self.ask("GET", "/v1/microserving/state")[1]

    def wait_idle(self) -> None:
        for _ in range(100):
            state = self.state()
            if not state["plans"] and not state["tickets"] and not state["kv"]["kv_used_tokens"]:
                return
            time.sleep(0.05)
        raise AssertionError(f"the worker does not become idle: {state}")


def sampling(num_tokens: int, **more: Any) -> dict[str, Any]:
    return {"max_tokens": num_tokens, "temperature": 0.0, "ignore_eos": True, **more}


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Process, Process]]:
    names = ("prefill-0", "decode-0")
    with asyncio.Runner() as runner:
        cluster = runner.run(Cluster.start(names))
        try:
            yield cluster.processes[names[0]], cluster.processes[names[1]]
        finally:
            runner.run(cluster.stop())


class Cluster:
    """A Redis and workers on it."""

    def __init__(self, redis: RedisServer, registry: RedisRegistry, supervisor: Supervisor) -> None:
        self._redis = redis
        self._registry = registry
        self._supervisor = supervisor
        self.processes: dict[str, Process] = {}

    @classmethod
    async def start(cls, names: Sequence[str]) -> "Cluster":
        redis = await RedisServer.start()
        registry = await RedisRegistry.open(redis.url, "test", LoopClock())
        cluster = cls(redis, registry, Supervisor())
        await cluster._supervisor.start([cluster._worker(name) for name in names])
        for member in await registry.members():
            pid = cluster._supervisor.pid(member.info.name)
            cluster.processes[member.info.name] = Process(member.info.url, pid)
        return cluster

    def _worker(self, name: str) -> Child:
        argv = [sys.executable, "-m", "mserve", "worker", "--name", name, "--pool", name[:-2]]
        argv += ["--redis", self._redis.url, "--cluster-id", "test"]
        argv += ["--threads", "1", "--kv-memory", "32MiB", "--checksum-kv"]
        argv += ["--page-size", str(PAGE_SIZES[name])]

        async def has_joined() -> bool:
            return any(member.info.name == name for member in await self._registry.members())

        return Child(name, argv, ready=has_joined)

    async def stop(self) -> None:
        await self._supervisor.stop()
        await self._registry.close()
        await self._redis.stop()


def test_generate_alone_is_a_whole_request(workers: tuple[Process, Process]) -> None:
    _, decode = workers
    body = {"plan_id": "alone", "tokens": PROMPT, "sampling": sampling(12)}
    events = decode.events(**body)
    assert sum(len(event.get("token_ids", ())) for event in events) == 12
    assert events[-1]["finish_reason"] == "length"
    assert events[-1]["usage"]["prompt_tokens"] == 300
    decode.wait_idle()


def test_the_three_calls_move_kv_and_give_the_same_tokens(workers: tuple[Process, Process]) -> None:
    prefill, decode = workers
    prompt = PROMPT[::-1]
    expected = prefill.tokens(plan_id="w", tokens=prompt, sampling=sampling(16), salt="elsewhere")
    common = {"plan_id": "three", "tokens": prompt}
    status, answer = decode.post("prep_recv", **common, end=250, ticket="three.t1")
    assert (status, answer) == (200, {"ticket": "three.t1", "matched": 0})
    state = decode.state()
    assert state["tickets"] == {"three.t1": "registered"}
    receiver = {
        "ticket": "three.t1",
        "worker": state["name"],
        "incarnation": state["incarnation"],
        "address": state["transport_address"],
        "fingerprint": state["fingerprint"],
    }
    assert base64.b64decode(receiver["address"])
    status, report = prefill.post("remote_send", **common, end=250, to=[receiver])
    assert status == 200, report
    assert (report["computed"], report["sent"]) == (250, 250)
    assert report["sent_bytes"] == 250 * 4 * 2 * 2 * 64 * 4  # layers, K and V, heads, dim, fp32
    tokens = decode.tokens(**common, begin=250, uses=["three.t1"], sampling=sampling(16))
    assert tokens == expected
    prefill.wait_idle()
    decode.wait_idle()
    status, answer = decode.post("match", tokens=prompt)
    assert (status, answer) == (200, {"matched": 288})


def test_a_plan_call_answers_in_frames(workers: tuple[Process, Process]) -> None:
    _, decode = workers
    step = StartGenerateCall("s1", 0, Sampling(5, temperature=0.0, ignore_eos=True))
    call = PlanCall("frames", pack_tokens(PROMPT), (step,))
    with closing(http.client.HTTPConnection(urlsplit(decode.url).netloc, timeout=30)) as line:
        line.request("POST", "/v1/microserving/plan", encode(call))
        response = line.getresponse()
        assert response.status == 200
        decoder = FrameDecoder()
        frames = list(decoder.feed(response.read()))
    assert decoder.pending == 0
    tokens = [t for f in frames if f.kind is FrameKind.TOKENS for t in unpack_tokens(f.tokens)]
    assert len(tokens) == 5
    (finish,) = [decode_finish(f.payload) for f in frames if f.kind is FrameKind.FINISH]
    assert (finish.reason, finish.completion_tokens) == ("length", 5)


def test_a_client_that_leaves_cancels_its_plan(workers: tuple[Process, Process]) -> None:
    _, decode = workers
    step = StartGenerateCall("s1", 0, Sampling(3000, temperature=0.0, ignore_eos=True))
    call = PlanCall("left", pack_tokens(PROMPT), (step,))
    with closing(http.client.HTTPConnection(urlsplit(decode.url).netloc, timeout=30)) as line:
        line.request("POST", "/v1/microserving/plan", encode(call))
        assert line.getresponse().read(200)
        assert decode.state()["plans"] == ["left/0"]
    decode.wait_idle()


def test_release_and_renew_and_a_ticket_nobody_knows(workers: tuple[Process, Process]) -> None:
    _, decode = workers
    decode.post("prep_recv", plan_id="r", tokens=PROMPT, end=100, ticket="r.t1")
    assert decode.post("renew", tickets=["r.t1"]) == (200, {"renewed": 1})
    assert decode.post("release", tickets=["r.t1"]) == (200, {"released": 1})
    status, problem = decode.post("release", tickets=["r.t1"])
    assert (status, problem["type"]) == (404, "not_found_error")
    decode.wait_idle()


@pytest.mark.parametrize(
    ("call", "body", "status", "says"),
    [
        ("prep_recv", {"plan_id": "x", "tokens": [1]}, 400, "ticket"),
        ("prep_recv", {"plan_id": "x", "tokens": [2**40], "ticket": "t", "end": 1}, 400, "tokens"),
        ("prep_recv", {"plan_id": "x", "tokens": [1, 2], "ticket": "t", "end": 9}, 422, "9"),
        ("start_generate", {"plan_id": "x", "tokens": [1], "sampling": {}}, 400, "max_tokens"),
        ("start_generate", {"plan_id": "x", "tokens": [1], "smapling": {}}, 400, "smapling"),
        (
            "start_generate",
            {"plan_id": "x", "tokens": [1] * 5000, "sampling": {"max_tokens": 1}},
            413,
            "4096",
        ),
        ("match", {"tokens": "no"}, 400, "tokens"),
    ],
)
def test_bad_calls_are_answered_with_a_problem(
    workers: tuple[Process, Process], call: str, body: dict[str, Any], status: int, says: str
) -> None:
    got, problem = workers[1].post(call, **body)
    assert got == status, problem
    assert says in problem["detail"]
    workers[1].wait_idle()


def test_malformed_bytes_are_400(workers: tuple[Process, Process]) -> None:
    for path in ("plan", "match"):
        status, problem = workers[1].ask("POST", f"/v1/microserving/{path}", raw=b"\xff{")
        assert (status, problem["type"]) == (400, "invalid_request_error")


def test_health_ready_metrics(workers: tuple[Process, Process]) -> None:
    _, decode = workers
    assert decode.ask("GET", "/health") == (200, {"alive": True})
    assert decode.ask("GET", "/ready") == (200, {"ready": True, "worker": "decode-0"})
    status, text = decode.ask("GET", "/metrics")
    assert status == 200
    assert 'mserve_worker_kv_total_tokens{worker="decode-0"} 8192' in text


def test_only_this_machine_reaches_a_worker_on_loopback(workers: tuple[Process, Process]) -> None:
    for worker in workers:
        front = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
        engines = [int(pid) for pid in front.read_text().split()]
        assert engines
        for pid in (worker.pid, *engines):
            assert listening_addresses(pid) == {"0100007F"}, "127.0.0.1, in hexadecimal"


def listening_addresses(pid: int) -> set[str]:
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.add(fields[1].partition(":")[0])
    return found


def test_a_worker_ends_with_its_engine(workers: tuple[Process, Process]) -> None:
    """Last, since it ends one: the HTTP process must not outlive what it serves."""
    prefill, _ = workers
    (engine,) = children(prefill.pid)
    os.kill(engine, signal.SIGKILL)
    for _ in range(100):
        if not is_running(prefill.pid):
            return
        time.sleep(0.05)
    raise AssertionError("the worker's HTTP process outlives its engine")


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
