"""What an engine process makes of its configuration, before it says that it is ready."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import msgspec
import pytest

from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError
from mserve.runtime.worker import ipc, startup

TINY = str(files("mserve") / "model")
COST = CostProfile(1e-3, 1e-5, 0.0, 1e-3, 1e-4, 1e-4, 1e9, 1024)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_costs", lambda *_: COST)


@contextmanager
def built(**settings: Any) -> Iterator[Any]:
    config = ipc.EngineConfig(
        model=TINY, worker="w-0", incarnation="a", loopback_only=True, **settings
    )
    parts = startup._build(config)
    try:
        yield parts
    finally:
        parts.transport.close()
        parts.runner.close()


def test_requests_are_bounded_by_the_memory_for_kv() -> None:
    with built(kv_memory_bytes=1 << 20) as parts:
        ready = parts.ready
        assert ready.max_model_len == ready.num_pages * ready.page_size
        assert any(f"KV memory holds {ready.max_model_len} tokens" in n for n in ready.notes)
    limit = ready.max_model_len
    for asked, given in ((100, 100), (limit + 1, limit)):
        with built(kv_memory_bytes=1 << 20, max_model_len=asked) as parts:
            assert parts.ready.max_model_len == given


def test_requests_are_bounded_by_the_model() -> None:
    with built() as parts:
        positions = parts.runner.config.max_positions
        assert parts.ready.max_model_len == positions
        assert not any("KV memory holds" in note for note in parts.ready.notes)
    with pytest.raises(ConfigError, match="--max-model-len is 1000000, but the model has"):
        startup._build(
            ipc.EngineConfig(model=TINY, worker="w-0", incarnation="a", max_model_len=1_000_000)
        )


def test_ready_and_layout_are_those_of_what_was_loaded() -> None:
    with built(page_size=8, host_cache_bytes=1 << 20, checksum_kv=True) as parts:
        config, ready = parts.runner.config, parts.ready
        assert (ready.page_size, ready.num_pages) == (8, parts.runner.pool.num_pages)
        assert ready.layout.num_layers == config.num_layers
        assert ready.transport_address == parts.transport.address
        assert ready.cost is COST
        assert parts.runner.pool.host_pages > 0


def test_why_it_cannot_start_is_told() -> None:
    front, back = socket.socketpair()
    config = ipc.EngineConfig(model="/no/such", worker="w-0", incarnation="a")
    with front, back:
        body = msgspec.msgpack.encode(config)
        front.sendall(struct.pack("<I", len(body)) + body)
        assert startup._serve(back) == 2
        buffer = bytearray(front.recv(1 << 16))
        (event,) = [event for body in ipc.split_frames(buffer) for event in ipc.decode_events(body)]
    assert isinstance(event, ipc.FailedStart)
    assert "/no/such" in event.detail


def test_without_a_front_there_is_nothing_to_start() -> None:
    front, back = socket.socketpair()
    front.close()
    with back:
        assert startup._serve(back) == 0
