"""Real clusters that are disturbed. bench/served.py starts and asks them, bench/sabotage.py acts inside.

Tests marked `chaos` run only when asked for: `pytest tests/faults -m chaos`, some 20 minutes.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: every fault at every step; minutes, not seconds")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "chaos" not in config.option.markexpr:
        chaos = [item for item in items if item.get_closest_marker("chaos")]
        config.hook.pytest_deselected(items=chaos)
        items[:] = [item for item in items if item not in chaos]
