"""What happens to processes: killed, frozen, left by their clients; and what the client sees."""

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PROMPT = "The little girl opened the door and went into the garden. " * 30
BODY = {
    "model": "mserve-tiny",
    "prompt": PROMPT,
    "max_tokens": 1500,
    "temperature": 0.8,
    "seed": 3,
    "stream": True,
    "ignore_eos": True,
}


@contextmanager
def streaming(server: Any, **changes: Any) -> Iterator["Stream"]:
    """A streamed completion whose first bytes have come."""
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)) as line:
        line.request("POST", "/v1/completions", json.dumps({**BODY, **changes}))
        response = line.getresponse()
        assert response.status == 200
        yield Stream(response, response.readline())


@dataclass
class Stream:
    """An answer under way, and its first line, which has come."""

    response: http.client.HTTPResponse
    begun: bytes


def text_of(stream: Stream) -> str:
    lines = [stream.begun, *stream.response]
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    assert not [event for event in events if "error" in event], events[-1]
    return "".join(event["choices"][0]["text"] for event in events)


def busy_engine(server: Any) -> int:
    """The engine process that uses the processor most at the moment."""
    before = {engine: cpu_ticks(engine) for _, engine in server.workers()}
    time.sleep(0.3)
    busiest: int = max(before, key=lambda pid: cpu_ticks(pid) - before[pid])
    return busiest


def cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_stream_survives_the_death_of_its_worker(serve: Any) -> None:
    with serve("least_loaded", "--cluster", "workers=2") as server:
        with streaming(server) as stream:
            undisturbed = text_of(stream)
        with streaming(server) as stream:
            os.kill(busy_engine(server), signal.SIGKILL)
            disturbed = text_of(stream)
        assert len(undisturbed) > 1000
        assert disturbed == undisturbed
        assert any("ended (exit code" in line for line in server.log)


def test_a_stream_survives_a_worker_that_freezes(serve: Any) -> None:
    with serve("least_loaded", "--cluster", "workers=2") as server:
        with streaming(server) as stream:
            undisturbed = text_of(stream)
        with streaming(server) as stream:
            frozen = busy_engine(server)
            os.kill(frozen, signal.SIGSTOP)
            began = time.monotonic()
            disturbed = text_of(stream)
        assert time.monotonic() - began < 30
        assert disturbed == undisturbed
        os.kill(frozen, signal.SIGKILL)


def test_a_prefill_worker_that_dies_is_done_without(serve: Any) -> None:
    with serve("prefill_decode") as server:
        with streaming(server, max_tokens=40) as stream:
            first = text_of(stream)
        (prefill, _) = server.workers()[0]
        os.kill(prefill, signal.SIGKILL)
        with streaming(server, max_tokens=40, prompt=PROMPT + " ") as stream:
            assert stream.response.headers["x-mserve-plan"].split("; ")[1] in (
                "route=alone",
                "route=disaggregated",
            )
            assert text_of(stream)
        assert first


def test_clients_that_leave_free_every_worker(serve: Any) -> None:
    with serve("balanced") as server:
        for _ in range(3):
            with streaming(server):
                pass
        for _ in range(100):
            if all(
                not state["plans"] and not state["kv"]["kv_used_tokens"] for state in states(server)
            ):
                return
            time.sleep(0.05)
        raise AssertionError(states(server))


def states(server: Any) -> list[Any]:
    """`/v1/microserving/state` of every worker, found by the port that its process listens on."""
    found = []
    for front, _ in server.workers():
        with closing(http.client.HTTPConnection("127.0.0.1", listening_port(front))) as line:
            line.request("GET", "/v1/microserving/state", headers=server.worker_headers)
            found.append(json.load(line.getresponse()))
    return found


def listening_port(pid: int) -> int:
    sockets = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    with open("/proc/net/tcp") as file:
        rows = [row.split() for row in file.readlines()[1:]]
    (port,) = {
        int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in sockets
    }
    return port
