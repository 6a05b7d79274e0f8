"""What `mserve serve` starts, and what it does for a worker that died before it is started again."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mserve.compiler.plan import PoolSpec
from mserve.runtime import serving
from mserve.runtime.cli.serving import add_commands
from mserve.runtime.cli.serving_options import engine_options
from mserve.runtime.cluster.launch import ChildExit
from mserve.runtime.cluster.membership import Member
from mserve.runtime.config import EngineOptions, ServeOptions


class Away:
    """A registry that cannot be reached `num_times`; then it still has the worker that died."""

    def __init__(self, num_times: int) -> None:
        self.members_failed = 0
        self.left: list[tuple[str, str]] = []
        self._num_times = num_times

    async def members(self) -> Sequence[Member]:
        if self.members_failed < self._num_times:
            self.members_failed += 1
            return []
        info: Any = SimpleNamespace(name="w-0", incarnation="first", pid=17)
        other: Any = SimpleNamespace(name="w-1", incarnation="second", pid=18)
        stats: Any = None
        return [Member(info, stats, 0.0), Member(other, stats, 0.0)]

    async def leave(self, name: str, incarnation: str) -> None:
        self.left.append((name, incarnation))


@pytest.mark.parametrize("num_times", [0, 3])
def test_a_worker_that_died_is_forgotten_once_redis_is_back(
    num_times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing starts without Redis: each try would count as one more quick death."""
    monkeypatch.setattr(serving, "_ASK_AGAIN_S", 0.0, raising=False)
    registry: Any = Away(num_times)
    exit_ = ChildExit("w-0", 17, -9, [])
    asyncio.run(serving._forget(exit_, registry))
    assert registry.left == [("w-0", "first")]


def test_every_rank_gets_a_gpu_of_its_own() -> None:
    pools = (PoolSpec("prefill", workers=2, gpus=2), PoolSpec("decode", workers=2))
    strategy: Any = SimpleNamespace(name="mine", pools=pools)
    options = ServeOptions(Path("model"), "model", workers={"decode": 3})
    planned = serving._plan_workers(strategy, options)
    assert [(name, engine.first_gpu, engine.gpus) for name, engine in planned] == [
        ("prefill-0", 0, 2),
        ("prefill-1", 2, 2),
        ("decode-0", 4, 1),
        ("decode-1", 5, 1),
        ("decode-2", 6, 1),
    ]


def test_a_worker_is_told_all_options_of_its_engine() -> None:
    """What its command line means is what the operator's meant."""
    engine = EngineOptions(
        page_size=32,
        host_cache_bytes=1 << 20,
        batch="aligned",
        patience_s=1e-5,
        fill=0.5,
        chunk_tokens=256,
        threads=3,
        checksum_kv=True,
    )
    nobody: Any = None
    options = ServeOptions(Path("model"), "model")
    child = serving._worker("pool-0", engine, "redis://localhost", options, nobody, nobody)
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    assert engine_options(parser.parse_args(child.argv[3:])) == engine
