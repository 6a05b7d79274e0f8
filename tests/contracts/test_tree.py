"""Rules about the tree itself: sizes, tests that test, names that stay out."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500
# What a check and a decision must not wait for, nor a laptop have to install.
HEAVY = {"torch", "redis", "ucxx", "starlette", "uvicorn", "flashinfer", "transformers", "pygls"}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked("*.py", "*.lark")
        if (count := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert not long


def test_every_test_file_has_a_test() -> None:
    empty = []
    for path in tracked("tests/**/*.py", "tests/*.py"):
        if path.name in ("conftest.py", "__init__.py"):
            continue
        names = [node.name for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]  # fmt: skip
        if not path.name.startswith("test_") or not any(
            name.startswith(("test_", "Test")) or name.endswith("Machine") for name in names
        ):
            empty.append(str(path.relative_to(ROOT)))
    assert not empty


def test_no_catch_all_module() -> None:
    banned = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not [path for path in tracked("*.py") if path.name in banned]


def test_every_silenced_check_gives_its_reason() -> None:
    pattern = re.compile(r"#\s*(?:type:\s*ignore|noqa)[^\n]*")
    for path in tracked("dsl/*.py", "compiler/*.py", "runtime/*.py", "models/*.py", "bench/*.py"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if found := pattern.search(line):
                assert re.search(r"[(;]|#.*#", found[0]), f"{path}:{number}: why is it silenced?"


@pytest.mark.parametrize(
    "module",
    [
        "mserve.dsl.check",
        "mserve.compiler.pipeline",
        "mserve.runtime.cli",
        "mserve.runtime.engine.engine",
        "mserve.runtime.engine.scheduler",
        "mserve.runtime.router.executor",
        "mserve.runtime.router.placement",
        "mserve.runtime.worker.service",
        "mserve.runtime.transport.loopback",
    ],
)
def test_the_path_to_a_decision_needs_no_heavy_library(module: str) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/"
    )
    assert not HEAVY & set(done.stdout.split())
