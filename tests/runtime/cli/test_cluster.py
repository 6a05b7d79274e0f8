import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from mserve.runtime.cli import main
from mserve.runtime.cluster.view import (
    ClusterView,
    PoolView,
    PromptsView,
    WorkerView,
    decode_view,
)


def worker(name: str, state: str, load_s: float) -> WorkerView:
    return WorkerView(
        name=name,
        pool=name.rpartition("-")[0],
        state=state,  # type: ignore[arg-type]  # one of the three
        url="http://127.0.0.1:1",
        incarnation="a1",
        heard_s=0.25,
        model="tiny",
        layout="tiny:77aa:float32:4x2x64",
        dtype="float32",
        gpus=1,
        page_size=16,
        block_tokens=16,
        max_model_len=4096,
        running=3,
        waiting=1,
        tickets=2,
        load_s=load_s,
        kv_used_tokens=500,
        kv_cached_tokens=250,
        kv_total_tokens=1000,
    )


VIEW = ClusterView(
    strategy="balanced",
    model="mserve-tiny",
    pools=(PoolView("prefill", 1), PoolView("decode", 1)),
    workers=(worker("decode-0", "draining", 0.0), worker("prefill-0", "ready", 2.5)),
)


@contextmanager
def answering(body: bytes, status: int = 200, path: str = "/v1/cluster") -> Iterator[str]:
    """A server that answers one path so, with its body also where there is nothing."""
    with serving({path: body}, status, missing=body) as address:
        yield address


@contextmanager
def serving(pages: dict[str, bytes], status: int = 200, missing: bytes = b"") -> Iterator[str]:
    """A server of `pages`, by path or by `POST path`; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(self.path)

        def do_POST(self) -> None:
            self.answer(f"POST {self.path}")

        def answer(self, what: str) -> None:
            self.send_response(status if what in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(what, missing))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


KV = ("50%", "25%", "1,000")
BODY = json.dumps(to_builtins(VIEW)).encode()
Captured = Callable[[], tuple[str, str]]


@pytest.fixture(name="said")
def capture_said(capsys: pytest.CaptureFixture[str]) -> Captured:
    return capsys.readouterr


def test_status_is_a_table_of_workers(said: Captured) -> None:
    with answering(BODY) as address:
        assert main(["status", address]) == 0
    out, _ = said()
    assert "strategy balanced, model mserve-tiny, 1 of 2 workers ready" in out
    (row,) = [line for line in out.splitlines() if line.startswith("prefill-0")]
    assert row.split() == [
        "prefill-0",
        "prefill",
        "ready",
        "0.2",
        "s",
        "3",
        "1",
        "2.5",
        "s",
        *KV,
        "2",
    ]
    assert "pool 'decode' has no worker that takes requests" in out


def test_status_says_what_caches_saved(said: Captured) -> None:
    view = replace(
        VIEW, prompts=PromptsView(20_000, available=18_000, routed=12_000, delivered=11_000)
    )
    with answering(json.dumps(to_builtins(view)).encode()) as address:
        assert main(["status", address]) == 0
    assert said()[0].splitlines()[-1] == (
        "of 20,000 prompt tokens, 90% were cached on some worker, 60% on a chosen one, and 55% were not "
        "computed again"
    )


@pytest.mark.parametrize("form", ["http://{}", "{}/", "http://{}/v1", "http://{}/v1/"])
def test_any_form_of_the_url_will_do(form: str, said: Captured) -> None:
    with answering(BODY) as address:
        assert main(["status", form.format(address), "--format", "json"]) == 0
    assert decode_view(said()[0]) == VIEW


def test_nobody_there(said: Captured) -> None:
    assert main(["status", "127.0.0.1:1"]) == 2
    assert "No router answers at 127.0.0.1:1" in said()[1]


@pytest.mark.parametrize(("body", "status"), [(b"hello", 200), (b"{}", 200), (b"", 404)])
def test_something_else_is_there(body: bytes, status: int, said: Captured) -> None:
    with answering(body, status) as address:
        assert main(["status", address]) == 2
    assert "router of mserve" in said()[1]


def test_check_against_a_cluster_that_fits(said: Captured) -> None:
    with answering(BODY) as address:
        assert main(["check", "balanced", "--against", address]) == 0
    out, err = said()
    assert out == ""
    assert "balanced.mserve: can be served by the 2 workers of" in err


def test_check_against_a_cluster_without_a_pool(said: Captured) -> None:
    with answering(BODY) as address:
        assert main(["check", "migration", "--against", address]) == 1
    assert "migration.mserve: against" in (err := said()[1])
    assert "No worker serves pool 'workers'" in err


PLAN = {
    "id": "57f4",
    "state": "done",
    "prompt_tokens": 100,
    "first_token_ms": 9.5,
    "ended_ms": 20.0,
    "error": None,
    "usage": {"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 0},
    "num_attempts": 1,
    "attempts": [
        {"strategy": "balanced", "route": "split", "bindings": {"d": "decode-0"}, "steps": []}
    ],
}


@pytest.mark.parametrize("written", ["57f4", "57f4; route=split"])
def test_why_draws_a_plan_by_its_id_or_the_whole_header(written: str, said: Captured) -> None:
    with answering(json.dumps(PLAN).encode(), path="/v1/plans/57f4") as address:
        assert main(["why", written, address]) == 0
    out, _ = said()
    assert "plan 57f4: done" in out
    assert "strategy balanced, route split (d = decode-0)" in out


def test_why_draws_all_plans_of_a_request(said: Captured) -> None:
    pages = {
        "/v1/plans/of/r1": {"plans": [{"id": "57f4"}, {"id": "57f5"}]},
        "/v1/plans/57f4": PLAN,
        "/v1/plans/57f5": {**PLAN, "id": "57f5"},
    }
    with serving({path: json.dumps(page).encode() for path, page in pages.items()}) as address:
        assert main(["why", "r1", address]) == 0
    out, _ = said()
    assert "plan 57f4: done" in out
    assert "plan 57f5: done" in out


def test_drain_asks_the_router(said: Captured) -> None:
    with serving({"POST /v1/workers/decode-0/drain": b"{}"}) as address:
        assert main(["drain", "decode-0", address]) == 0
        assert "decode-0 takes no more requests" in said()[0]
        assert main(["drain", "decode-1", address]) == 2


def test_why_says_what_the_router_says(said: Captured) -> None:
    body = json.dumps({"error": {"message": "No plan `9` is known here."}}).encode()
    with answering(body, 404, "/v1/plans/9") as address:
        assert main(["why", "9", address]) == 2
    assert "No plan `9` is known here." in said()[1]
