"""A pool's settings mean the same to a real engine and to a simulated one."""

from typing import Any

import pytest

from mserve.compiler.plan import PoolSpec
from mserve.runtime.config import EngineOptions
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.pool_settings import host_cache_bytes, with_settings

SETTINGS: list[tuple[dict[str, object], dict[str, Any]]] = [
    ({}, {}),
    ({"batch": {"kind": "continuous", "tokens": 4096.0}}, {"max_batch_tokens": 4096}),
    ({"batch": {"kind": "continuous", "tokens": 100.0}},
     {"max_batch_tokens": 100, "chunk_tokens": 100}),
    ({"batch": {"kind": "continuous", "chunk": 64.0}}, {"chunk_tokens": 64}),
    ({"queue": {"kind": "hit_ratio", "groups": 4.0}}, {"queue": "hit_ratio", "queue_groups": 4}),
    ({"queue": {"kind": "deadline"}}, {"queue": "deadline"}),
    ({"prefix_cache": {"kind": "none"}}, {"prefix_cache": False}),
    ({"prefix_cache": {"kind": "radix"}}, {"prefix_cache": True}),
]  # fmt: skip
NAMES = ("max_batch_tokens", "chunk_tokens", "queue", "queue_groups", "prefix_cache")


@pytest.mark.parametrize(("settings", "changes"), SETTINGS)
def test_both_engines_are_set_alike(settings: dict[str, object], changes: dict[str, Any]) -> None:
    pool = PoolSpec("p", settings=settings)
    real = with_settings(EngineOptions(), pool)
    simulated = with_settings(EngineConfig(num_pages=8), pool)
    before = {name: getattr(EngineOptions(), name) for name in NAMES}
    for found in (real, simulated):
        assert {name: getattr(found, name) for name in NAMES} == before | changes


def test_host_memory_is_said_in_bytes() -> None:
    assert host_cache_bytes(PoolSpec("p", settings={"host_cache": 2.0**30})) == 1 << 30
    assert host_cache_bytes(PoolSpec("p", settings={"host_cache": 0.0})) == 0
    assert host_cache_bytes(PoolSpec("p")) is None
