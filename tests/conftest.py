"""For all tests: nothing is written outside of the repository and temporary folders."""

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Workers of all tests share what they measure; the user's own cache is left alone."""
    cache = Path(config.rootpath, ".pytest_cache", "xdg")
    os.environ["XDG_CACHE_HOME"] = str(cache)
