"""Processes that die, freeze, drain and come back, one kind at a time: what the others make of it."""

import http.client
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mserve.runtime.cluster.launch import free_port
from mserve.runtime.cluster.redis_server import executables
from served import (
    MSERVE,
    Served,
    arguments_of,
    children,
    serving,
    started,
    until,
)
from traffic import Seen

STORY = "The little girl opened the door and went into the garden. " * 45
ENGINE = ("--kv-memory", "32MiB", "--chunk-tokens", "128")
POISON = 1999
POOLS = ("--cluster", "prefill=1", "--cluster", "decode=2")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving("cache_aware", *POOLS, *ENGINE, step_delay_s=0.01, poison=POISON) as served:
        yield served


def plans(server: Served) -> int:
    return sum(len(state["plans"]) for state in server.states())


# --- clients and requests --------------------------------------------------------------------------


def test_a_client_that_leaves_frees_every_page_within_a_second(server: Served) -> None:
    server.wait_ready(3)
    with closing(server.connect()) as line:
        server.begin(line, STORY, max_tokens=900)
        until(lambda: plans(server) > 0, 5)
    assert server.wait_clean(1.0) < 1.0


def test_many_clients_leave_at_any_moment(server: Served) -> None:
    rng = random.Random(4)

    def leave(number: int) -> None:
        wait_s = rng.random() ** 2 * 0.3
        prompt = f"{number} {STORY}"[: rng.randrange(2700)]
        with closing(server.connect()) as line:
            server.begin(line, prompt, max_tokens=900)
            time.sleep(wait_s)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(leave, range(200)))
    server.wait_clean(2.0)
    assert server.stream("Once upon a time", max_tokens=8).completion_tokens == 8


def test_a_poisoned_request_fails_alone(server: Served) -> None:
    asked = {"model": "mserve-tiny", "max_tokens": 8, "temperature": 0}
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(server.stream, f"{n} {STORY}", max_tokens=40) for n in range(3)]
        bad = pool.submit(server.ask, "/v1/completions", {**asked, "prompt": [POISON, 5, 6]})
        status, answer = bad.result()
        assert status == 500
        assert "could not run this request: a poisoned prompt" in answer["error"]["message"]
        assert [stream.result().completion_tokens for stream in good] == [40, 40, 40]
    server.wait_clean(2.0)


# --- Redis -----------------------------------------------------------------------------------------


def ask_all_the_time(server: Served, while_: Any) -> list[Seen]:
    """Answers to requests sent one after the other while `while_()` runs, and some more."""
    answers: list[Seen] = []
    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(while_)
        while not disturbing.done():
            answers.append(server.stream(f"{len(answers)} {STORY}", max_tokens=4))
        disturbing.result()
    return answers


def cached_tokens(server: Served, prompt: str) -> int:
    asked = {"model": "mserve-tiny", "max_tokens": 2, "temperature": 0, "prompt": prompt}
    status, answer = server.ask("/v1/completions", asked)
    assert status == 200, answer
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def test_the_embedded_redis_is_killed(server: Served) -> None:
    server.wait_ready(3)
    cached_tokens(server, STORY)

    def kill() -> None:
        (redis,) = [
            pid
            for pid in children(server.process.pid)
            if "redis-server" in arguments_of(pid)[0]  # it renames itself
        ]
        os.kill(redis, signal.SIGKILL)
        time.sleep(4)  # longer than heartbeats may be missed

    answers = ask_all_the_time(server, kill)
    assert {(answer.error, answer.completion_tokens) for answer in answers} == {("", 4)}
    server.wait_ready(3, 5)
    # The workers have told the new one what they hold: an answer comes from where its prompt is.
    until(lambda: cached_tokens(server, STORY) > 300, 5)
    assert server.stream(STORY, max_tokens=2).plan_id


# --- draining --------------------------------------------------------------------------------------


def test_workers_drain_and_leave(tmp_path: Path) -> None:
    with serving("least_loaded", "--cluster", "workers=3", *ENGINE, step_delay_s=0.01) as server:
        first, second, third = server.workers()
        idle, terminated = server.front(first["name"]), server.front(second["name"])
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(server.stream, f"{n} {STORY}", max_tokens=90) for n in range(4)]
            until(lambda: all(state["plans"] for state in server.states()), 5)
            server.ask("/drain", {}, url=first["url"])
            os.kill(terminated, signal.SIGTERM)
            until(lambda: ready_names(server) == [third["name"]], 1.5)
            answers = [stream.result() for stream in running]
        assert [answer.completion_tokens for answer in answers] == [90] * 4
        until(lambda: len(server.workers()) == 1, 3)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (idle, terminated)), 5)
        assert not any("made anew" in row or "started again" in row for row in server.log)
        # One that has nothing to finish is gone at once; then nobody is left to serve.
        last = server.front(third["name"])
        server.ask("/drain", {}, url=third["url"])
        until(lambda: not server.workers(), 1.5)
        until(lambda: not Path(f"/proc/{last}").exists(), 5)


def ready_names(server: Served) -> list[str]:
    return [worker["name"] for worker in server.workers() if worker["state"] == "ready"]


# --- the only worker -------------------------------------------------------------------------------


def test_a_stream_waits_for_the_only_worker_to_come_back() -> None:
    with serving("prefill_decode", *ENGINE, step_delay_s=0.02) as server:
        server.wait_ready(2)
        server.order("decode", "engine", signal.SIGKILL)
        answer = server.stream(STORY)
        taken = server.taken()
        assert taken is not None
        assert answer.text == server.stream(STORY).text
        assert answer.resumed_after(taken.at_s) < 15  # torch must be loaded again
        log = "".join(server.log)
        assert "pool 'decode' has no live worker any more" in log
        assert "worker decode-0 ended (exit code" in log
        assert "The engine process was killed (SIGKILL): by hand, or for lack of memory." in log
        assert "worker decode-0 is started again now" in log
        until(lambda: any("worker decode-0 is back" in row for row in server.log), 5)


# --- parts that are started one by one -------------------------------------------------------------


@contextmanager
def parts(redis_port: int) -> Iterator[tuple[Served, list[subprocess.Popen[str]]]]:
    """A router and two workers over a Redis; gives the router, and all three processes."""
    cluster = ("--redis", f"redis://127.0.0.1:{redis_port}/0")
    worker = ("worker", *cluster, "--kv-memory", "32MiB", "--checksum-kv")
    serves = r"serves at (http://[\d.:]+)"
    with (
        started([*MSERVE, *worker, "--pool", "workers"], ready=serves) as first,
        started(
            [*MSERVE, *worker, "--pool", "workers", "--name", "workers-1"], ready=serves
        ) as second,
        started([*MSERVE, "router", "least_loaded", *cluster, "--port", "0"]) as router,
    ):
        server = Served(router[0], router[1], router[2], Path())
        server.wait_ready(2)
        yield server, [router[0], first[0], second[0]]


def redis_argv(port: int) -> list[str]:
    return [next(executables()), "--port", str(port), "--save", ""]


REDIS_READY = r"(Ready to accept)"


def test_an_external_redis_is_killed_and_restarted_then_the_router_is_killed() -> None:
    port = free_port()
    with (
        started(redis_argv(port), ready=REDIS_READY) as (redis, _, _),
        parts(port) as (server, processes),
    ):

        def kill() -> None:
            redis.kill()
            redis.wait()
            time.sleep(3)

        answers = ask_all_the_time(server, kill)
        assert {(answer.error, answer.completion_tokens) for answer in answers} == {("", 4)}
        with started(redis_argv(port), ready=REDIS_READY):
            until(lambda: len(ready_names(server)) == 2, 5)
            until(lambda: all(worker["heard_s"] < 1.5 for worker in server.workers()), 5)
            kill_router(server, processes[0])
            # A worker that dies is not started again by itself.
            processes[1].send_signal(signal.SIGKILL)
            assert processes[1].wait(5) == -signal.SIGKILL


def kill_router(server: Served, router: subprocess.Popen[str]) -> None:
    workers = server.workers()

    def states() -> list[Any]:
        return [server.ask("/v1/microserving/state", url=worker["url"])[1] for worker in workers]

    with ThreadPoolExecutor(2) as pool, suppress(OSError, http.client.HTTPException):
        streams = [pool.submit(server.stream, STORY, max_tokens=900) for _ in range(2)]
        until(lambda: all(state["plans"] for state in states()), 5)
        router.kill()
        until(lambda: not any(state["plans"] for state in states()), 2, lambda: str(states()))
        until(lambda: not any(state["kv"]["kv_used_tokens"] for state in states()), 2)
        for stream in streams:
            stream.result()
