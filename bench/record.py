"""How a benchmark keeps its figures: one JSON file with the question, machine, versions and date."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def write_record(
    path: Path | None, question: str, packages: Sequence[str] = (), **figures: object
) -> None:
    """Writes `figures` to `path`; does nothing without one. `packages` are those whose versions
    matter; one that is not installed is left out."""
    if path is None:
        return
    body = {
        "question": question,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
        **figures,
    }
    path.write_text(json.dumps(body, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
