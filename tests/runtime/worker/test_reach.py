"""Who can reach a worker's transport follows from where it listens."""

from pathlib import Path

import pytest

from mserve.runtime.config import EngineOptions, is_loopback
from mserve.runtime.worker.server import WorkerConfig


@pytest.mark.parametrize(
    ("host", "advertise", "loopback_only"),
    [
        ("127.0.0.1", "", True),
        ("::1", "", True),
        ("localhost", "", True),
        ("0.0.0.0", "", False),
        ("192.0.2.7", "", False),
        ("127.0.0.1", "gpu-3.example", False),  # something forwards to it
    ],
)
def test_a_worker_on_loopback_moves_kv_on_loopback(
    host: str, advertise: str, loopback_only: bool
) -> None:
    config = WorkerConfig.of(
        "w-0", "w", Path("model"), EngineOptions(), 1, host=host, advertise=advertise
    )
    assert config.engine.loopback_only is loopback_only


def test_a_name_is_not_taken_for_loopback() -> None:
    assert not is_loopback("gpu-3.example")
